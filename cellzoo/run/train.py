"""One run: from a resolved config to a result on disk."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar

import cellzoo
from cellzoo.config.compose import check_values, identity, ranks
from cellzoo.run.attempts import Attempt, begin, join
from cellzoo.run.checkpoints import Best, Last, WholeFiles
from cellzoo.run.directory import ENDED, LOCK, build_model, free_space, read_result, write_result
from cellzoo.run.learner import DivergedError, Learner
from cellzoo.run.loggers import RunLogger, global_rank, is_main_process
from cellzoo.run.prune import Prune, PrunedError
from cellzoo.run.ranks import Ranks, end_with_parent, say
from cellzoo.system.locks import hold
from cellzoo.system.signals import Stop, Terminated, noting_sigterm
from cellzoo.system.threads import on_threads
from cellzoo.tasks import Task, tasks

# The parameters' dtype, where Lightning's precision says another than float32.
DTYPES = {"64-true": torch.float64, "64": torch.float64, "bf16-true": torch.bfloat16}

CTRL_C, SIGTERM = "Ctrl-C", "SIGTERM"  # the reasons of what is interrupted

LIBRARIES = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "pytorch_lightning",
    "py.warnings",
)


def train(
    config: Mapping[str, Any],
    directory: Path,
    group: str | None = None,
    progress: bool = True,
    reraise: bool = False,
    engine: str | None = None,
    prune: Callable[[int, float], bool] | None = None,
) -> dict[str, Any]:
    """Train, validate and test one model; what happened is in the run's directory.

    A directory that holds an unfinished attempt at this run is gone on with, from its last
    checkpoint, with the engine and the threads that it had; on one machine's CPU the result is
    that of a run that nothing disturbed, bit for bit.

    Args:
        config: a resolved config (`config.resolved`).
        directory: the run's own.
        group: the sweep that it belongs to, if any.
        progress: whether to show a progress bar.
        reraise: whether an exception goes on once it is recorded.
        engine: what "auto" was settled to be (`settle_engine`).
        prune: told each validation's epoch and monitored metric, says whether to end the run.

    Returns:
        The result as in result.json. Its status is "done"; "diverged" where a loss or gradient
        was not finite; "pruned" where `prune` ended it; or "failed", with the reason, where
        anything else went wrong.

    Raises:
        LockedError: another process runs it.
        RunError: the directory holds another run, or this one done or diverged.
        KeyboardInterrupt, Terminated: Ctrl-C or SIGTERM came. The status is "interrupted".
    """
    run = _Run(config, directory, group, progress, engine, prune)
    return run.lead(reraise) if is_main_process() else run.follow()


def check(config: Mapping[str, Any]) -> None:
    """Build what a run needs, data included, and let go of it: wrong input is said early.

    Raises:
        ValueError, TypeError, LookupError, OSError: what is wrong with it, in its own words.
    """
    check_values(config)
    task = build_task(config)
    model = build_model(config, task.input_size, task.output_size, task.reads)
    Learner(model, task, config["optimizer"], config["scheduler"]).configure_optimizers()
    task.examples("val", 0)


def settle_engine(config: Mapping[str, Any], directory: Path) -> tuple[str, list[str]]:
    """The engine that "auto" is for this run: what an earlier attempt had, else the fastest here.

    A cell that was never compiled on this machine is compiled.

    Returns:
        The engine, and why it is no faster one.
    """
    asked, before = config["engine"], read_result(directory)
    accelerator = config["trainer"]["accelerator"]
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if asked != "auto" or not on_cpu:
        return asked, []
    if before and before["identity"] == identity(config) and before.get("setting"):
        return before["setting"], []
    task = build_task(config)
    rnn = build_model(config, task.input_size, task.output_size, task.reads).rnn
    precision = str(config["trainer"]["precision"])
    if (dtype := DTYPES.get(precision)) is not None:
        rnn = rnn.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        why = rnn.settle_engine()
    return rnn.engine, why


def build_task(config: Mapping[str, Any]) -> Task:
    """The task that a resolved config describes."""
    options = dict(config["task"])
    name = options.pop("name")
    return tasks[name](seed=config["seed"], root=config["data"]["root"], **options)


class _Run:
    """What `train` does; `result` fills as it goes, so that a failure keeps what there is."""

    def __init__(
        self,
        config: Mapping[str, Any],
        directory: Path,
        group: str | None,
        progress: bool,
        engine: str | None,
        prune: Callable[[int, float], bool] | None,
    ) -> None:
        self.prune = prune
        self.config = config
        self.directory = directory
        self.group = group
        self.progress = progress
        self.engine = engine
        self.result = blank_result(config)
        self.logger: RunLogger | None = None
        self.ranks = Ranks(directory, self._give_up)
        self.start = time.perf_counter()

    def lead(self, reraise: bool) -> dict[str, Any]:
        """The run, as the process that writes, and starts other ranks where there are some."""
        with hold(self.directory / LOCK), noting_sigterm() as stop:
            attempt = begin(self.directory, self.config)
            self.start -= attempt.kept.get("seconds", 0.0)
            settled = ("engine", "setting", "threads")  # once, by the first attempt
            self.result |= {key: attempt.earlier.get(key) for key in settled}
            self.result |= {"wandb": attempt.wandb, "attempts": attempt.attempts}
            write_result(self.directory, self.result)
            try:
                with _library_talk_into(self.directory / "train.log"):
                    self._train(attempt, stop)
                self.result["status"] = "done"
            except BaseException as error:
                self._note(error, stop)
                if self.result["reason"] == CTRL_C:
                    raise KeyboardInterrupt from error
                if self.result["reason"] == SIGTERM:
                    raise Terminated from error
                if reraise and self.result["status"] == "failed":
                    raise
            finally:
                stop.patient = True  # the rest is short
                self._end()
            return self.result

    def follow(self) -> dict[str, Any]:
        """The run, as one of the other ranks: it writes nothing but why it did not end well."""
        end_with_parent()
        rank = global_rank()
        try:
            with noting_sigterm() as stop, _library_talk_into(None):
                self._train(join(self.directory), stop)
        except BaseException as error:
            self._note(error, stop)
            outcome = {key: self.result[key] for key in ("status", "reason", "step")}
            if outcome["status"] == "failed":
                outcome["reason"] = f"rank {rank}: {outcome['reason']}"
            say(self.directory, rank, outcome)
            raise SystemExit(1) from error
        self.result["status"] = "done"
        return self.result

    def _train(self, attempt: Attempt, stop: Stop) -> None:
        """Everything that can fail."""
        check_values(self.config)
        before = torch.get_deterministic_debug_mode()
        threads = attempt.earlier.get("threads") or _threads(self.config)
        self.result["threads"] = threads
        try:
            with on_threads(threads):
                self._fit_and_test(attempt, stop)
        finally:
            torch.set_deterministic_debug_mode(before)  # the next job may not ask for it

    def _fit_and_test(self, attempt: Attempt, stop: Stop) -> None:
        config, result = self.config, self.result
        seed_everything(config["seed"], workers=True, verbose=False)
        task = build_task(config)
        engine = attempt.earlier.get("setting") or self.engine
        model = build_model(config, task.input_size, task.output_size, task.reads, engine)
        if rank := global_rank():  # the same weights everywhere, but masks of its own
            seed_everything(
                int(np.random.SeedSequence((config["seed"], rank)).generate_state(1)[0]),
                verbose=False,
            )
        learner = Learner(model, task, config["optimizer"], config["scheduler"])
        result |= {
            "monitor": task.monitor,
            "mode": task.mode,
            "input_size": task.input_size,
            "output_size": task.output_size,
            "reads": task.reads,
            "parameters": sum(p.numel() for p in model.parameters()),
            "engine": model.rnn.explain(),
            "setting": model.rnn.engine,
        }
        self._start_logging(attempt)

        folder = self.directory / "checkpoints"
        best = Best(folder / "best.ckpt", task.monitor, task.mode)
        last = Last(folder / "last.ckpt", config["save_every"], stop, self._progress)
        trainer = self._trainer(task, best, last)
        trainer.fit(learner, task, ckpt_path=attempt.checkpoint, weights_only=True)
        result["steps"] = trainer.global_step
        if last.seconds:  # else it was trained before
            done = trainer.global_step - attempt.kept.get("step", 0)
            result["steps_per_second"] = round(done / last.seconds, 2)
        if trainer.global_step > best.step and not config["trainer"]["fast_dev_run"]:
            # max_steps ended the run within an epoch: its last steps count too.
            trainer.validate(learner, task, verbose=False)
        result["metrics"] |= best.metrics
        ran = model.rnn.ran  # autocast, for one, changes the choice

        # The one time that the test split is read; a fast_dev_run has saved nothing.
        weights = best.path if best.path.exists() else None
        trainer.test(learner, task, ckpt_path=weights, verbose=False)
        result["engine"] = ran or model.rnn.ran
        result["metrics"] |= {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("test/")
        }

    def _start_logging(self, attempt: Attempt) -> None:
        self.logger = RunLogger(self.directory, attempt.kept.get("rows", 0))
        if is_main_process():
            write_result(self.directory, self.result)  # what it was settled to be, for a next one
            if self.config["logger"]["wandb"]:
                parameters = self.result["parameters"]
                self.logger.start_wandb(self.config, self.group, parameters, attempt.wandb)

    def _trainer(self, task: Task, best: Best, last: Last) -> Trainer:
        callbacks: list[Callback] = [best, last]
        early = self.config["early_stopping"]
        if early["patience"] is not None:
            callbacks.append(EarlyStopping(task.monitor, mode=task.mode, **early))
        if self.prune is not None:
            callbacks.append(Prune(self.prune, task.monitor))
        if self.progress:
            callbacks.append(RichProgressBar(leave=False))
        trainer = Trainer(
            **self.config["trainer"],
            default_root_dir=self.directory,
            logger=self.logger,
            callbacks=callbacks,
            plugins=[WholeFiles()],
            enable_checkpointing=False,  # Best and Last do it
            enable_progress_bar=self.progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,  # a task may generate an epoch's examples
            use_distributed_sampler=False,  # tasks have their own, which repeats no example
        )
        self.ranks.watch(trainer)
        # Its handler of SIGTERM talks to the other ranks, which may be in the midst of talking.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        return trainer

    def _progress(self) -> dict[str, Any]:
        """What last.ckpt keeps of the run."""
        assert self.logger is not None
        return {"rows": self.logger.sync(), "seconds": time.perf_counter() - self.start}

    def _note(self, error: BaseException, stop: Stop) -> None:
        """Why it did not end well."""
        said = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {said[0] if said else ''}".rstrip(": ")
        outcome: dict[str, Any]
        # Lightning turns Ctrl-C into an exit.
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            outcome = {"status": "interrupted", "reason": CTRL_C}
        elif stop.asked:
            outcome = {"status": "interrupted", "reason": SIGTERM}
        elif isinstance(error, PrunedError):
            outcome = {"status": "pruned", "reason": str(error)}
        elif isinstance(error, DivergedError):
            outcome = {"status": "diverged", "reason": str(error), "step": error.step}
        else:
            elsewhere = self.ranks.outcome()
            outcome = {"status": "failed", "reason": reason}
            if elsewhere is not None and not elsewhere["reason"].endswith(reason):
                outcome = elsewhere  # what another rank met is why this one could not go on
        self.result |= outcome

    def _end(self) -> None:
        """Write the result, then have the other ranks and W&B end."""
        result = self.result
        result["seconds"] = round(time.perf_counter() - self.start, 3)
        if result["status"] != "done":
            result["metrics"] = {k: v for k, v in result["metrics"].items() if k[:5] != "test/"}
        # JSON has no NaN: a metric that is none (the loss would have been divergence) is null.
        result["metrics"] = {
            k: v if math.isfinite(v) else None for k, v in result["metrics"].items()
        }
        reason = f": {result['reason']}" if result["reason"] else ""
        result["attempts"][-1]["ended"] = result["status"] + reason
        write_result(self.directory, result)  # before W&B has its say: files are the truth
        if result["status"] in ENDED:
            free_space(self.directory)
        self.ranks.end(well=result["status"] in ("done", "diverged"))
        if self.logger is not None:
            self.logger.finish(result)

    def _give_up(self, reason: str) -> None:
        """Another rank died, and this one waits for it for good."""
        self.result |= {"status": "failed", "reason": reason}
        self.logger = None  # its thread hangs
        self._end()
        os._exit(1)


def _threads(config: Mapping[str, Any]) -> int:
    """As many as torch would take; ranks on one machine share its cores."""
    number = ranks(config["trainer"])
    if number == 1 or "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    return max(1, torch.get_num_threads() // number)


def blank_result(config: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a run that has only begun."""
    return {
        "status": "running",
        "reason": None,
        "step": None,
        "cell": config["cell"]["name"],
        "task": config["task"]["name"],
        "init": config["init"]["name"],
        "hidden_size": config["hidden_size"],
        "seed": config["seed"],
        "parameters": None,
        "metrics": {},
        "monitor": None,
        "mode": None,
        "seconds": None,
        "steps": None,
        "steps_per_second": None,
        "engine": None,
        "identity": identity(config),
        "setting": None,
        "threads": None,
        "ranks": ranks(config["trainer"]),
        "wandb": None,
        "attempts": [],
        "cellzoo": cellzoo.__version__,
        "torch": torch.__version__,
    }


@contextmanager
def _library_talk_into(path: Path | None) -> Iterator[None]:
    """Send what the libraries log and warn about to a file; without one, nowhere."""
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
            # Tasks begin an epoch where a run goes on; Lightning cannot know.
            warnings.filterwarnings("ignore", ".*your dataloader is not resumable")
            yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()
