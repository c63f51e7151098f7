"""`cellzoo sweep --status runs/NAME`: how a sweep stands, from its files."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellzoo.run.directory import RunError, read_result, status
from cellzoo.sweep.record import read_attempts, read_commands, read_planned
from cellzoo.system.locks import held

console = Console(highlight=False)
COLUMNS = ("done", "running", "diverged", "pruned", "failed", "left")


@dataclass(frozen=True)
class Standing:
    """How a sweep stands.

    Attributes:
        by_cell: for each cell, how many jobs of each status; those that the sweep has not come to
            are left and have no cell yet (None).
        reasons: why runs failed: run, reason.
        others: how runs of earlier commands stand, that the last one did not ask for.
        going: whether the sweep runs now.
        seconds: until the end, where it runs and a job was timed.
    """

    by_cell: Mapping[str | None, Counter[str]]
    reasons: Mapping[str, str]
    others: Counter[str]
    going: bool
    seconds: float | None


def standing(directory: Path) -> Standing:
    """Read how a sweep stands.

    Raises:
        RunError: the directory holds no sweep.
    """
    commands = read_commands(directory)
    if not commands:
        raise RunError(f"{directory} holds no sweep: there is no sweep.yaml")
    command, planned = commands[-1], read_planned(directory)
    runs = {row["run"]: None for row in planned}
    by_cell: dict[str | None, Counter[str]] = {}
    reasons: dict[str, str] = {}
    for run in runs:
        column = _column(status(directory / run))
        by_cell.setdefault(run.rsplit("-", 1)[0], Counter())[column] += 1
        if column == "failed":
            reasons[run] = str((read_result(directory / run) or {}).get("reason"))
    if unseen := command["jobs"] - len(planned):
        by_cell[None] = Counter(left=unseen)
    found = (str(path.parent.relative_to(directory)) for path in directory.glob("*/s*/result.json"))
    others = Counter(_column(status(directory / run)) for run in found if run not in runs)
    going = held(directory / ".lock")
    together = sum(by_cell.values(), Counter())
    seconds = _seconds_left(directory, command, together) if going else None
    return Standing(by_cell, reasons, others, going, seconds)


def show(directory: Path) -> None:
    """Print how a sweep stands."""
    now = standing(directory)
    table = Table("cell", box=None, pad_edge=False)
    together: Counter[str] = sum(now.by_cell.values(), Counter())
    shown = [each for each in COLUMNS if each != "pruned" or together["pruned"]]
    for heading in shown:
        table.add_column(heading, justify="right")
    for cell, counts in now.by_cell.items():
        table.add_row(cell or "(not yet composed)", *(str(counts[each]) for each in shown))
    table.add_row("all", *(str(together[each]) for each in shown))
    console.print(table)
    for run, reason in now.reasons.items():
        console.print(f"failed: {escape(run)}: {escape(reason)}", soft_wrap=True)
    if now.others:
        said = ", ".join(f"{number} {how}" for how, number in now.others.items())
        console.print(f"from earlier commands, beside these: {said}")
    console.print(_outlook(now, together))


def _outlook(now: Standing, together: Counter[str]) -> str:
    if not now.going:
        unfinished = together["left"] + together["running"]
        return "not running; the same command goes on" if unfinished else "not running; complete"
    if now.seconds is None:
        return "running; no job has ended yet that tells how long they take"
    return f"running; about {timedelta(seconds=round(now.seconds))} to the end"


def _column(how: str) -> str:
    return "left" if how == "interrupted" else how


def _seconds_left(
    directory: Path, command: Mapping[str, Any], together: Counter[str]
) -> float | None:
    """The mean time of the attempts so far, by slots, for what is left and half of what runs."""
    took = [float(row["ended"]) - float(row["started"]) for row in read_attempts(directory)]
    if not took or "slots" not in command:
        return None
    jobs = together["left"] + together["running"] / 2
    return statistics.mean(took) * jobs / command["slots"]
