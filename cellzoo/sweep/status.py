"""`cellzoo sweep --status runs/NAME`: the status of a sweep, from its files."""

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from cellzoo.run.directory import RunError, read_result, status
from cellzoo.run.result import Status
from cellzoo.sweep.progress import count_table
from cellzoo.sweep.record import read_attempts, read_commands, read_planned
from cellzoo.system.locks import held

console = Console(highlight=False)
COLUMNS = (
    Status.DONE, Status.RUNNING, Status.DIVERGED, Status.PRUNED, Status.FAILED, Status.LEFT,
)  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """The status of a sweep.

    Attributes:
        by_cell: the number of jobs of each status by cell, "(not yet composed)" for the jobs that
            the sweep has not reached; an interrupted job is LEFT.
        reasons: the reasons of failures by run.
        others: the number of runs of each status that only earlier commands had.
        active: whether the sweep runs now.
        seconds: until the end, if the sweep runs and an attempt has ended.
    """

    by_cell: dict[str, Counter[Status]]
    reasons: dict[str, str]
    others: Counter[Status]
    active: bool
    seconds: float | None


def standing(directory: Path) -> Standing:
    """Return the status of a sweep.

    Raises:
        RunError: the directory holds no sweep.
    """
    commands = read_commands(directory)
    if not commands:
        raise RunError(f"{directory} holds no sweep: there is no sweep.yaml")
    command, planned = commands[-1], read_planned(directory)
    runs = {row["run"]: None for row in planned}
    by_cell: dict[str, Counter[Status]] = {}
    reasons: dict[str, str] = {}
    for run in runs:
        column = _column(directory / run)
        by_cell.setdefault(run.rsplit("-", 1)[0], Counter())[column] += 1
        if column is Status.FAILED and (result := read_result(directory / run)):
            reasons[run] = str(result.reason)
    if unseen := command["jobs"] - len(planned):
        by_cell["(not yet composed)"] = Counter({Status.LEFT: unseen})
    paths = (path.parent for path in directory.glob("*/s*/result.json"))
    others = Counter(_column(p) for p in paths if str(p.relative_to(directory)) not in runs)
    active = held(directory / ".lock")
    seconds = _seconds_left(directory, command, by_cell) if active else None
    return Standing(by_cell, reasons, others, active, seconds)


def show(directory: Path) -> None:
    """Print the status of a sweep."""
    now = standing(directory)
    console.print(count_table(now.by_cell, COLUMNS))
    for run, reason in now.reasons.items():
        console.print(f"failed: {escape(run)}: {escape(reason)}", soft_wrap=True)
    if now.others:
        counts = ", ".join(f"{number} {status}" for status, number in now.others.items())
        console.print(f"from earlier commands, beside these: {counts}")
    console.print(_outlook(now))


def _outlook(now: Standing) -> str:
    if not now.active:
        unfinished = _number(now.by_cell, Status.LEFT) + _number(now.by_cell, Status.RUNNING)
        return "not running; the same command resumes it" if unfinished else "not running; complete"
    if now.seconds is None:
        return "running; the time left is unknown until a job has ended"
    return f"running; about {timedelta(seconds=round(now.seconds))} to the end"


def _column(run: Path) -> Status:
    recorded = status(run)
    return Status.LEFT if recorded is Status.INTERRUPTED else recorded


def _number(by_cell: Mapping[str, Counter[Status]], status: Status) -> int:
    return sum(counts[status] for counts in by_cell.values())


def _seconds_left(
    directory: Path, command: Mapping[str, Any], by_cell: Mapping[str, Counter[Status]]
) -> float | None:
    """Return the mean time of an attempt, by slots, for the jobs left and half of the running."""
    times = [float(row["ended"]) - float(row["started"]) for row in read_attempts(directory)]
    if not times or "slots" not in command:
        return None
    jobs = _number(by_cell, Status.LEFT) + _number(by_cell, Status.RUNNING) / 2
    return statistics.mean(times) * jobs / float(command["slots"])
