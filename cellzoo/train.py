"""One run: from a resolved config to a result on disk."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar

import cellzoo
from cellzoo.config import check_values, identity
from cellzoo.learner import DivergedError, Learner
from cellzoo.loggers import finish, is_main_process, make_loggers
from cellzoo.runs import begin, build_model, read_result, write_result
from cellzoo.tasks import Task, tasks

# The parameters' dtype, where Lightning's precision says another than float32.
DTYPES = {"64-true": torch.float64, "64": torch.float64, "bf16-true": torch.bfloat16}

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
) -> dict[str, Any]:
    """Train, validate and test one model; what happened is in the run's directory.

    Args:
        config: a resolved config (`config.resolved`).
        directory: the run's own.
        group: the sweep that it belongs to, if any.
        progress: whether to show a progress bar.
        reraise: whether an exception goes on once it is recorded.
        engine: what "auto" was settled to be (`settle_engine`).

    Returns:
        The result as in result.json. Its status is "done"; "diverged" where a loss or gradient
        was not finite; or "failed", with the reason, where anything else went wrong.
    """
    main = is_main_process()
    attempt = begin(directory, config) if main else 0
    result = _blank(config, attempt)
    if main:
        write_result(directory, result)
    loggers: list[Any] = []
    deterministic = torch.get_deterministic_debug_mode()
    start = time.perf_counter()
    try:
        with _library_talk_into(directory / "train.log" if main else None):
            _run(config, directory, group, progress, engine, result, loggers)
        result["status"] = "done"
    except DivergedError as error:
        result |= {"status": "diverged", "reason": str(error), "step": error.step}
    except BaseException as error:
        message = str(error).strip().splitlines()
        result["status"] = "failed"
        result["reason"] = f"{type(error).__name__}: {message[0] if message else ''}".rstrip(": ")
        # Lightning turns Ctrl-C into an exit.
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            result["reason"] = "interrupted"
            raise KeyboardInterrupt from error
        if reraise:
            raise
    finally:
        result["seconds"] = round(time.perf_counter() - start, 3)
        if result["status"] != "done":
            result["metrics"] = {k: v for k, v in result["metrics"].items() if k[:5] != "test/"}
        # JSON has no NaN: a metric that is none (the loss would have been divergence) is null.
        result["metrics"] = {
            k: v if math.isfinite(v) else None for k, v in result["metrics"].items()
        }
        torch.set_deterministic_debug_mode(deterministic)  # the next job may not ask for it
        if main:
            write_result(directory, result)  # before W&B has its say: files are the truth
        finish(loggers, result, directory)
    return result


def check(config: Mapping[str, Any]) -> None:
    """Build what a run needs, data included, and let go of it: wrong input is said early.

    Raises:
        ValueError, TypeError, LookupError, OSError: what is wrong with it, in its own words.
    """
    check_values(config)
    task = _build_task(config)
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
    if before and before["identity"] == identity(config) and before.get("engine"):
        return before["engine"].split()[0], []
    task = _build_task(config)
    rnn = build_model(config, task.input_size, task.output_size, task.reads).rnn
    precision = str(config["trainer"]["precision"])
    if (dtype := DTYPES.get(precision)) is not None:
        rnn = rnn.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        why = rnn.settle_engine()
    return rnn.engine, why


def _build_task(config: Mapping[str, Any]) -> Task:
    options = dict(config["task"])
    name = options.pop("name")
    return tasks[name](seed=config["seed"], root=config["data"]["root"], **options)


def _run(
    config: Mapping[str, Any],
    directory: Path,
    group: str | None,
    progress: bool,
    engine: str | None,
    result: dict[str, Any],
    loggers: list[Any],
) -> None:
    """The run itself; `result` and `loggers` fill as it goes, so that a failure keeps both."""
    check_values(config)
    seed_everything(config["seed"], workers=True, verbose=False)

    task = _build_task(config)
    model = build_model(config, task.input_size, task.output_size, task.reads, engine)
    learner = Learner(model, task, config["optimizer"], config["scheduler"])
    result |= {
        "monitor": task.monitor,
        "mode": task.mode,
        "input_size": task.input_size,
        "output_size": task.output_size,
        "reads": task.reads,
        "parameters": sum(p.numel() for p in model.parameters()),
        "engine": model.rnn.explain(),
    }
    loggers += make_loggers(config, directory, group, result["parameters"])

    best = BestMetrics(task.monitor, task.mode)
    checkpoint = ModelCheckpoint(
        directory / "checkpoints",
        filename="best",
        monitor=task.monitor,
        mode=task.mode,
        save_last=True,
        enable_version_counter=False,
    )
    callbacks: list[Callback] = [best, checkpoint]
    if config["early_stopping"]["patience"] is not None:
        callbacks.append(EarlyStopping(task.monitor, mode=task.mode, **config["early_stopping"]))
    if progress:
        callbacks.append(RichProgressBar(leave=False))
    trainer = Trainer(
        **config["trainer"],
        default_root_dir=directory,
        logger=loggers,
        callbacks=callbacks,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,  # a task may generate an epoch's examples
        use_distributed_sampler=False,  # tasks have their own, which repeats no example
    )

    start = time.perf_counter()
    trainer.fit(learner, task)
    seconds = time.perf_counter() - start
    result["steps"] = trainer.global_step
    result["steps_per_second"] = round(trainer.global_step / seconds, 2)
    best_checkpoint = directory / "checkpoints" / "best.ckpt"
    if trainer.global_step > best.step and not config["trainer"]["fast_dev_run"]:
        # max_steps ended the run within an epoch: its last steps count too.
        before = best.metrics
        trainer.validate(learner, task, verbose=False)
        if best.metrics is not before:
            trainer.save_checkpoint(best_checkpoint)
        trainer.save_checkpoint(best_checkpoint.with_name("last.ckpt"))
    result["metrics"] |= best.metrics
    result["engine"] = model.rnn.ran  # autocast, for one, changes the choice

    # The one time that the test split is read.
    saved = best_checkpoint.exists()  # a fast_dev_run saves nothing
    trainer.test(learner, task, ckpt_path=str(best_checkpoint) if saved else None, verbose=False)
    result["metrics"] |= {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("test/")
    }


class BestMetrics(Callback):
    """Keeps all validation metrics of the epoch whose monitored one is best."""

    def __init__(self, monitor: str, mode: str) -> None:
        self.monitor = monitor
        self.sign = 1 if mode == "max" else -1
        self.metrics: dict[str, float] = {}
        self.step = 0  # of the last validation

    def on_validation_end(self, trainer: Trainer, learner: LightningModule) -> None:
        """Compare as ModelCheckpoint does: the first of equals stays."""
        now = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self.step = trainer.global_step
        old = self.metrics.get(self.monitor)
        if old is None or math.isnan(old) or self.sign * now[self.monitor] > self.sign * old:
            self.metrics = now


def _blank(config: Mapping[str, Any], attempt: int) -> dict[str, Any]:
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
        "attempt": attempt,
        "threads": torch.get_num_threads(),
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
            yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()
