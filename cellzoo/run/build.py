"""The parts of a run, built from its config: the task, the model and the engine."""

from pathlib import Path

import torch

from cellzoo.config.checks import check_values
from cellzoo.config.identity import identity
from cellzoo.config.schema import RunConfig
from cellzoo.run.directory import read_result
from cellzoo.run.learner import Learner
from cellzoo.run.model import SequenceModel, build_model
from cellzoo.tasks import Task, tasks

# The dtype of the parameters, where Lightning's precision asks for another one than float32.
DTYPES = {"64-true": torch.float64, "64": torch.float64, "bf16-true": torch.bfloat16}


def build_task(config: RunConfig) -> Task:
    """Return the task of a config."""
    task = tasks[config.task.name]
    return task(seed=config.seed, root=config.data.root, **config.task.options)


def model_for(config: RunConfig, task: Task, engine: str | None = None) -> SequenceModel:
    """Return the model of a config for a task."""
    return build_model(config, task.input_size, task.output_size, task.reads, engine)


def check(config: RunConfig) -> None:
    """Build everything that a run needs, data included, and drop it.

    Raises:
        ValueError, TypeError, LookupError, OSError: as the part raises it that cannot be built.
    """
    check_values(config)
    task = build_task(config)
    learner = Learner(model_for(config, task), task, config.optimizer, config.scheduler)
    learner.configure_optimizers()
    task.examples("val", 0)


def settle_engine(config: RunConfig, directory: Path) -> tuple[str, list[str]]:
    """Return the engine that "auto" stands for in this run, and the reasons against faster ones.

    It is the engine of an earlier attempt, else the fastest one of this machine. A cell that was
    never compiled here is compiled.
    """
    before, accelerator = read_result(directory), config.trainer.accelerator
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if config.engine != "auto" or not on_cpu:
        return config.engine, []
    if before and before.identity == identity(config) and before.engine:
        return before.engine, []
    rnn = model_for(config, build_task(config)).rnn
    precision = str(config.trainer.precision)
    if (dtype := DTYPES.get(precision)) is not None:
        rnn = rnn.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        reasons = rnn.settle_engine()
    return rnn.engine, reasons
