"""What a launcher is, and how an ended job is judged.

A new launcher is a class with `run`, a file of its settings in conf/launcher/, and a line in
`LAUNCHERS`. A new sweeper is another iterator of jobs: it may look at the outcomes so far whenever
it is asked for the next one.
"""

from __future__ import annotations

import importlib
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cellzoo.config.compose import ConfigError
from cellzoo.names.registry import nearest
from cellzoo.run.directory import ENDED, read_result, write_result
from cellzoo.run.train import blank_result
from cellzoo.sweep.launchers.job import LOCKED, Job

OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "can't allocate memory")

STOPPED = {130: signal.SIGINT, 143: signal.SIGTERM}  # exit statuses of runs that were asked to end

LAUNCHERS = {
    "pool": "cellzoo.sweep.launchers.pool:Pool",
    "inprocess": "cellzoo.sweep.launchers.inprocess:InProcess",
    "slurm": "cellzoo.sweep.launchers.slurm:Slurm",
    "ray": "cellzoo.sweep.launchers.ray:Ray",
}


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its result, as in result.json. Its status may be "running" (elsewhere)."""

    job: Job
    result: Mapping[str, Any]


class Launcher(Protocol):
    """Runs jobs.

    Args:
        settings: the config's `launcher`.
        trainer: the config's `trainer`, that of the first job.

    Raises:
        ConfigError: settings that make no sense, here or with such a trainer.
    """

    slots: int  # how many jobs run at once

    def __init__(self, settings: Mapping[str, Any], trainer: Mapping[str, Any]) -> None: ...

    def start(self, environment: Mapping[str, str]) -> None:
        """Get ready: the jobs' environment has these beside this process's."""
        ...

    def describe(self) -> str:
        """Where jobs run, in a line."""
        ...

    def run(self, jobs: Iterator[Job]) -> Iterator[Outcome]:
        """Run jobs as there is room, and yield each one's outcome as it ends."""
        ...

    def close(self) -> None:
        """End what still runs."""
        ...


def launcher_class(name: str) -> type[Launcher]:
    """The launcher of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in LAUNCHERS:
        raise ConfigError(f"unknown launcher {name!r}: {nearest(name, LAUNCHERS)}")
    module, _, attribute = LAUNCHERS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def written(directory: Path) -> int | None:
    """When result.json was last written, in ns: what is older is no word of this attempt."""
    path = directory / "result.json"
    return path.stat().st_mtime_ns if path.exists() else None


@dataclass(frozen=True)
class Verdict:
    """What is to be said of an attempt that ended.

    Attributes:
        result: the run's, if it has come to an end.
        again: why the attempt says nothing about the run, if so: it may be tried again.
    """

    result: Mapping[str, Any] | None = None
    again: str | None = None


def judge(job: Job, code: int, before: int | None) -> Verdict:
    """What came of an attempt.

    Args:
        job: whose process ended.
        code: its exit status, or minus the signal that killed it.
        before: `written` before it was started.
    """
    if code == LOCKED:
        return Verdict(again=_last_line(job) or "another process runs it")
    new = written(job.directory) != before
    result = read_result(job.directory) if new else None
    if result is not None and result["status"] in (*ENDED, "pruned", "failed"):
        lack = any(sign in str(result["reason"]) for sign in OUT_OF_MEMORY)
        return Verdict(again=result["reason"]) if lack else Verdict(result)
    if code < 0 or code in STOPPED:
        return Verdict(again=f"killed by {signal.Signals(STOPPED.get(code, -code)).name}")
    reason = f"ended without a result (exit status {code})"
    return Verdict(failed(job, ": ".join(filter(None, (reason, _last_line(job))))))


def failed(job: Job, reason: str) -> dict[str, Any]:
    """Record that a run failed, where its own process could not."""
    result = {**(read_result(job.directory) or blank_result(job.config))}
    result |= {"status": "failed", "reason": reason}
    if result["attempts"]:
        result["attempts"][-1]["ended"] = f"failed: {reason}"
    write_result(job.directory, result)
    return result


def elsewhere(job: Job, reason: str | None) -> dict[str, Any]:
    """The result of a run that is another process's now."""
    return {"status": "running", "reason": reason, "cell": job.config["cell"]["name"]}


def _last_line(job: Job) -> str | None:
    lines = job.log.read_text(errors="replace").split("\n") if job.log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
