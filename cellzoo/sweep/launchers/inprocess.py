"""The launcher `inprocess`: one job after another, here, where a debugger can look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cellzoo.config.compose import ConfigError
from cellzoo.run.train import train
from cellzoo.sweep.launchers.base import Outcome
from cellzoo.sweep.launchers.job import Job


class InProcess:
    """See `launcher.Launcher`.

    Raises:
        ConfigError: a run on several devices, of which this process cannot be one.
    """

    def __init__(self, settings: Mapping[str, Any], trainer: Mapping[str, Any]) -> None:
        if trainer["strategy"] != "auto" or trainer["devices"] not in (1, "1", "auto"):
            raise ConfigError(
                "launcher=inprocess runs its jobs in this process, which cannot be one of several "
                "ranks: use launcher=pool"
            )

    slots = 1

    def start(self, environment: Mapping[str, str]) -> None:
        """This process is ready."""

    def describe(self) -> str:
        """Where jobs run, in a line."""
        return "one job at a time, in this process"

    def run(self, jobs: Iterator[Job]) -> Iterator[Outcome]:
        """Run each job as it comes."""
        for job in jobs:
            result = train(
                job.config, job.directory, job.sweep.name, progress=False, engine=job.engine
            )
            yield Outcome(job, result)

    def close(self) -> None:
        """There is nothing to end."""
