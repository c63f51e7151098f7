"""The interface of a launcher.

A new launcher is a class with the methods of `Launcher`, a class of its settings in
`config.schema`, and a line in `LAUNCHERS`. A new plan is another iterator of jobs: when a launcher
takes the next job, the plan may use the results so far.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from cellzoo.config.checks import ConfigError
from cellzoo.config.schema import Trainer
from cellzoo.names.registry import nearest
from cellzoo.run.result import RunResult
from cellzoo.sweep.launchers.job import Job

LAUNCHERS = {
    "pool": "cellzoo.sweep.launchers.pool:PoolLauncher",
    "inprocess": "cellzoo.sweep.launchers.inprocess:InProcessLauncher",
    "slurm": "cellzoo.sweep.launchers.slurm:SlurmLauncher",
    "ray": "cellzoo.sweep.launchers.ray:RayLauncher",
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Attributes:
        job: the job that ended.
        result: as in result.json; its status is RUNNING if another process runs the job.
    """

    job: Job
    result: RunResult


class Launcher(Protocol):
    """Runs jobs.

    Args:
        settings: the config's `launcher`, of the launcher's own class in `config.schema`.
        trainer: the `trainer` of the first job's config.

    Raises:
        ConfigError: a setting is invalid, on this machine or with this trainer.
    """

    @property
    def slots(self) -> int:
        """Return the number of jobs that run at once."""
        ...

    def __init__(self, settings: Any, trainer: Trainer) -> None: ...

    def start(self, environment: Mapping[str, str]) -> None:
        """Get ready to run jobs with this process's environment and the given variables."""
        ...

    def describe(self) -> str:
        """Return the place where jobs run, in a line."""
        ...

    def run(self, jobs: Iterator[Job]) -> Iterator[Outcome]:
        """Take and run a job whenever a slot is free, and yield each outcome as a job ends."""
        ...

    def close(self) -> None:
        """End the jobs that still run."""
        ...


def launcher_class(name: str) -> type[Launcher]:
    """Return the launcher of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in LAUNCHERS:
        raise ConfigError(f"unknown launcher {name!r}: {nearest(name, LAUNCHERS)}")
    module, _, attribute = LAUNCHERS[name].partition(":")
    return cast(type[Launcher], getattr(importlib.import_module(module), attribute))
