"""One run: from a resolved config to a result on disk."""

import logging
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar

from cellzoo.config.checks import check_values
from cellzoo.config.identity import identity, world_size
from cellzoo.config.schema import RunConfig
from cellzoo.names.version import __version__
from cellzoo.run.attempts import Attempt, begin, join
from cellzoo.run.build import build_task, model_for
from cellzoo.run.checkpoints import Best, Last, WholeFiles
from cellzoo.run.directory import LOCK, free_space, write_result
from cellzoo.run.learner import DivergedError, Learner
from cellzoo.run.lightning_private import leave_signals_alone
from cellzoo.run.loggers import RunLogger
from cellzoo.run.prune import Prune, PrunedError, Pruner
from cellzoo.run.ranks import RankOutcome, Ranks, record_outcome
from cellzoo.run.result import ENDED, RunResult, Status
from cellzoo.system.locks import hold
from cellzoo.system.ranks import end_with_parent, global_rank, is_main_process
from cellzoo.system.signals import Stop, Terminated, noting_sigterm
from cellzoo.system.threads import on_threads
from cellzoo.tasks import Task

CTRL_C, SIGTERM = "Ctrl-C", "SIGTERM"  # the reasons of an interruption

LIBRARIES = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "pytorch_lightning",
    "py.warnings",
)


def train(
    config: RunConfig,
    directory: Path,
    group: str | None = None,
    progress: bool = True,
    reraise: bool = False,
    engine: str | None = None,
    prune: Pruner | None = None,
) -> RunResult:
    """Train, validate and test one model, and record everything in the run's directory.

    An unfinished attempt in the directory is resumed from its last checkpoint, with its engine and
    its number of threads. On one machine's CPU the result then equals that of an undisturbed run,
    bit for bit.

    Args:
        config: resolved (`config.compose.resolved`).
        directory: of this run alone.
        group: the name of the sweep.
        progress: whether to show a progress bar.
        reraise: whether to raise an exception after it is recorded.
        engine: the engine that "auto" stands for (`settle_engine`).
        prune: decides after each validation whether the run ends.

    Returns:
        The result, as in result.json. Its status is DONE; DIVERGED if a loss or gradient was not
        finite; PRUNED if `prune` ended the run; else FAILED, with the reason.

    Raises:
        LockedError: another process runs it.
        RunError: the directory holds another run, or this one finished.
        KeyboardInterrupt, Terminated: on Ctrl-C or SIGTERM. The status is INTERRUPTED.
    """
    run = _Run(config, directory, group, progress, engine, prune)
    return run.lead(reraise) if is_main_process() else run.follow()


def blank_result(config: RunConfig) -> RunResult:
    """Return the result of a run that has only begun."""
    return RunResult(
        cell=config.cell.name,
        task=config.task.name,
        init=config.init.name,
        hidden_size=config.hidden_size,
        seed=config.seed,
        identity=identity(config),
        world_size=world_size(config.trainer),
        cellzoo=__version__,
        torch=torch.__version__,
    )


@dataclass
class _Run:
    """The steps of `train`. `result` is filled step by step: a failure keeps the known values."""

    config: RunConfig
    directory: Path
    group: str | None
    progress: bool
    engine: str | None
    prune: Pruner | None

    def __post_init__(self) -> None:
        self.result = blank_result(self.config)
        self.logger: RunLogger | None = None
        self.ranks = Ranks(self.directory, self._give_up)
        self.start = time.perf_counter()

    def lead(self, reraise: bool) -> RunResult:
        """Run as rank 0, which writes the files and starts the other ranks."""
        result = self.result
        with hold(self.directory / LOCK), noting_sigterm() as stop:
            attempt = begin(self.directory, self.config)
            self.start -= attempt.progress.seconds
            if attempt.earlier is not None:  # the first attempt settled these
                result.engine = attempt.earlier.engine
                result.engine_choice = attempt.earlier.engine_choice
                result.threads = attempt.earlier.threads
            result.wandb, result.attempts = attempt.wandb, attempt.records
            write_result(self.directory, result)
            try:
                with _library_messages_into(self.directory / "train.log"):
                    self._train(attempt, stop)
                result.status = Status.DONE
            except BaseException as error:
                self._record(error, stop)
                if result.reason == CTRL_C:
                    raise KeyboardInterrupt from error
                if result.reason == SIGTERM:
                    raise Terminated from error
                if reraise and result.status is Status.FAILED:
                    raise
            finally:
                stop.patient = True  # the rest takes little time
                self._end()
            return result

    def follow(self) -> RunResult:
        """Run as another rank, which writes nothing but the reason of a failure."""
        end_with_parent()
        rank, result = global_rank(), self.result
        try:
            with noting_sigterm() as stop, _library_messages_into(None):
                self._train(join(self.directory), stop)
        except BaseException as error:
            self._record(error, stop)
            failed = result.status is Status.FAILED
            reason = f"rank {rank}: {result.reason}" if failed else str(result.reason)
            record_outcome(self.directory, rank, RankOutcome(result.status, reason, result.step))
            raise SystemExit(1) from error
        result.status = Status.DONE
        return result

    def _train(self, attempt: Attempt, stop: Stop) -> None:
        """Check, fit and test: everything that can fail."""
        check_values(self.config)
        before = torch.get_deterministic_debug_mode()
        threads = (attempt.earlier and attempt.earlier.threads) or _threads(self.config)
        self.result.threads = threads
        try:
            with on_threads(threads):
                self._fit_and_test(attempt, stop)
        finally:
            torch.set_deterministic_debug_mode(before)  # the next job may not ask for it

    def _fit_and_test(self, attempt: Attempt, stop: Stop) -> None:
        config, result = self.config, self.result
        seed_everything(config.seed, workers=True, verbose=False)
        task = build_task(config)
        engine = (attempt.earlier and attempt.earlier.engine) or self.engine
        model = model_for(config, task, engine)
        if rank := global_rank():  # equal weights on all ranks, but different dropout masks
            seed = np.random.SeedSequence((config.seed, rank)).generate_state(1)[0]
            seed_everything(int(seed), verbose=False)
        learner = Learner(model, task, config.optimizer, config.scheduler)
        result.monitor, result.mode = task.monitor, task.mode
        result.input_size, result.output_size = task.input_size, task.output_size
        result.reads = task.reads
        result.parameters = sum(p.numel() for p in model.parameters())
        result.engine, result.engine_choice = model.rnn.engine, model.rnn.explain()
        self._start_logging(attempt, result.parameters)

        folder = self.directory / "checkpoints"
        best = Best(folder / "best.ckpt", task.monitor, task.mode)
        last = Last(folder / "last.ckpt", config.save_every, stop, self._progress)
        trainer = self._trainer(task, best, last)
        trainer.fit(learner, task, ckpt_path=attempt.checkpoint, weights_only=True)
        result.steps = trainer.global_step
        if last.seconds:  # else an earlier attempt completed the training
            steps = trainer.global_step - attempt.progress.step
            result.steps_per_second = round(steps / last.seconds, 2)
        if trainer.global_step > best.step and not config.trainer.fast_dev_run:
            # max_steps ended the run within an epoch: its last steps count too.
            trainer.validate(learner, task, verbose=False)
        result.metrics |= best.metrics
        ran = model.rnn.ran  # autocast, for example, changes the choice

        # The only time that the test split is read. A fast_dev_run has saved nothing.
        weights = best.path if best.path.exists() else None
        trainer.test(learner, task, ckpt_path=weights, verbose=False)
        result.engine_choice = ran or model.rnn.ran
        result.metrics |= {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("test/")
        }

    def _start_logging(self, attempt: Attempt, parameters: int) -> None:
        self.logger = RunLogger(self.directory, attempt.progress.rows)
        if is_main_process():
            write_result(self.directory, self.result)  # the settled engine, for the next attempt
            if self.config.logger.wandb:
                self.logger.start_wandb(self.config, self.group, parameters, attempt.wandb)

    def _trainer(self, task: Task, best: Best, last: Last) -> Trainer:
        callbacks: list[Callback] = [best, last]
        early = self.config.early_stopping
        if early.patience is not None:
            callbacks.append(EarlyStopping(task.monitor, mode=task.mode, **early.to_mapping()))
        if self.prune is not None:
            callbacks.append(Prune(self.prune, task.monitor))
        if self.progress:
            callbacks.append(RichProgressBar(leave=False))
        trainer = Trainer(
            **self.config.trainer.to_mapping(),
            default_root_dir=self.directory,
            logger=self.logger,
            callbacks=callbacks,
            plugins=[WholeFiles()],
            enable_checkpointing=False,  # Best and Last do it
            enable_progress_bar=self.progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,  # a task may generate the examples of an epoch
            use_distributed_sampler=False,  # tasks have samplers that repeat no example
        )
        self.ranks.watch(trainer)
        leave_signals_alone(trainer)
        return trainer

    def _progress(self) -> dict[str, Any]:
        """Return the progress that last.ckpt records (`attempts.Progress`)."""
        assert self.logger is not None
        return {"rows": self.logger.sync(), "seconds": time.perf_counter() - self.start}

    def _record(self, error: BaseException, stop: Stop) -> None:
        """Record the status, the reason and the step of a run that did not end well."""
        result = self.result
        message = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {message[0] if message else ''}".rstrip(": ")
        # Lightning turns Ctrl-C into an exit.
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            result.status, result.reason = Status.INTERRUPTED, CTRL_C
        elif stop.asked:
            result.status, result.reason = Status.INTERRUPTED, SIGTERM
        elif isinstance(error, PrunedError):
            result.status, result.reason = Status.PRUNED, str(error)
        elif isinstance(error, DivergedError):
            result.status, result.reason, result.step = Status.DIVERGED, str(error), error.step
        else:
            result.status, result.reason = Status.FAILED, reason
            outcome = self.ranks.outcome()  # another rank's failure is the cause of this one
            if outcome is not None and not outcome.reason.endswith(reason):
                result.status, result.reason = outcome.status, outcome.reason
                result.step = outcome.step if outcome.step is not None else result.step

    def _end(self) -> None:
        """Write the result, then end the other ranks and the W&B run."""
        result = self.result
        result.seconds = round(time.perf_counter() - self.start, 3)
        done = result.status is Status.DONE
        # JSON has no NaN: a metric that is not finite is null (a loss would have diverged).
        result.metrics = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in result.metrics.items()
            if done or not name.startswith("test/")
        }
        result.attempts[-1].ended = result.outcome
        write_result(self.directory, result)  # before W&B ends: the files are authoritative
        if result.status in ENDED:
            free_space(self.directory)
        self.ranks.end(well=result.status in ENDED)
        if self.logger is not None:
            self.logger.finish(result)

    def _give_up(self, reason: str) -> None:
        """Exit: another rank died, and this one would wait for it forever."""
        self.result.status, self.result.reason = Status.FAILED, reason
        self.logger = None  # its thread hangs
        self._end()
        os._exit(1)


def _threads(config: RunConfig) -> int:
    """Return torch's own number of threads; ranks on one machine share its cores."""
    ranks = world_size(config.trainer)
    if ranks == 1 or "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    return max(1, torch.get_num_threads() // ranks)


@contextmanager
def _library_messages_into(path: Path | None) -> Iterator[None]:
    """Write the libraries' log messages and warnings to a file; None drops them."""
    handler = logging.FileHandler(path) if path else logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logging.captureWarnings(True)
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            # Tasks resume within an epoch, which Lightning cannot know.
            warnings.filterwarnings("ignore", ".*your dataloader is not resumable")
            yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()
