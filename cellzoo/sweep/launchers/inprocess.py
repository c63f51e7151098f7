"""The launcher `inprocess`: one job after another in this process, for a debugger."""

from collections.abc import Iterator, Mapping

from cellzoo.config import schema
from cellzoo.config.checks import ConfigError
from cellzoo.run.train import train
from cellzoo.sweep.launchers.base import Outcome
from cellzoo.sweep.launchers.job import Job


class InProcessLauncher:
    """A `Launcher` without processes.

    Raises:
        ConfigError: a run on several devices, of which this process cannot be one rank.
    """

    slots = 1

    def __init__(self, settings: schema.InProcess, trainer: schema.Trainer) -> None:
        if trainer.strategy != "auto" or trainer.devices not in (1, "1", "auto"):
            raise ConfigError(
                "launcher=inprocess runs its jobs in this process, which cannot be one of several "
                "ranks: use launcher=pool"
            )

    def start(self, environment: Mapping[str, str]) -> None:
        """Do nothing: this process is ready."""

    def describe(self) -> str:
        """Return the place where jobs run, in a line."""
        return "one job at a time, in this process"

    def run(self, jobs: Iterator[Job]) -> Iterator[Outcome]:
        """Run each job when it is taken, and yield its outcome."""
        for job in jobs:
            result = train(
                job.config, job.directory, job.sweep.name, progress=False, engine=job.engine
            )
            yield Outcome(job, result)

    def close(self) -> None:
        """Do nothing: no job runs."""
