"""What a sweep says while it runs: a line that lives, one for each job that ended, and a table."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cellzoo.run.command import said_of
from cellzoo.sweep.launchers.base import Outcome

STATUSES = ("done", "diverged", "pruned", "failed")


class Progress:
    """The sweep's lines.

    Args:
        console: where to.
        total: how many jobs there are.
        slots: how many run at once.
    """

    def __init__(self, console: Console, total: int, slots: int) -> None:
        self.console, self.total, self.slots = console, total, slots
        self.by_cell: dict[str, Counter[str]] = {}
        self.reasons: Counter[str] = Counter()
        self.before = 0  # had ended before the sweep was started
        self.now = 0
        self.taken = 0
        self._start = time.monotonic()
        self._live = Live(
            get_renderable=self._line, console=console, transient=True, refresh_per_second=2
        )

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType
    ) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """Say something once."""
        self.console.print(f"[dim]{escape(text)}[/dim]", soft_wrap=True)

    def ended_before(self, result: Mapping[str, Any]) -> None:
        """Count a run that there was nothing left to do for."""
        self.before += 1
        self._count(result)

    def same(self, said: str, number: int) -> None:
        """Say that a job is the same run as an earlier one."""
        self.total -= 1
        self.note(f"{said} is the same run as job {number}")

    def started(self) -> None:
        """Count a job that was handed to the launcher."""
        self.taken += 1

    def ended(self, outcome: Outcome) -> None:
        """Say how a job ended, by validation: who tunes by a sweep must not see the test split."""
        self.now += 1
        self._count(outcome.result)
        place = f"[{self.before + self.now}/{self.total}]"
        said = outcome.job.said or f"cell={outcome.job.config['cell']['name']}"
        self.console.print(escape(f"{place} {said}  {said_of(outcome.result)}"), soft_wrap=True)

    def tally(self) -> None:
        """Say how all jobs ended, by cell, and why some failed."""
        if self.before:
            self.note(f"{self.before} had ended before")
        table = Table(box=None, pad_edge=False)
        table.add_column("cell")
        together = sum(self.by_cell.values(), Counter())
        shown = [each for each in STATUSES if each != "pruned" or together["pruned"]]
        for status in shown:
            table.add_column(status, justify="right")
        for cell, counts in sorted(self.by_cell.items()):
            table.add_row(cell, *(str(counts[status]) for status in shown))
        table.add_row("all", *(str(together[status]) for status in shown))
        self.console.print(table)
        for reason, number in sorted(self.reasons.items()):
            times = f" ({number} jobs)" if number > 1 else ""
            self.console.print(f"failed: {escape(reason)}{times}", soft_wrap=True)

    @property
    def all_done(self) -> bool:
        """Whether no job ended otherwise than done."""
        return all(set(+counts) <= {"done", "pruned"} for counts in self.by_cell.values())

    def _count(self, result: Mapping[str, Any]) -> None:
        self.by_cell.setdefault(result["cell"], Counter())[result["status"]] += 1
        if result["status"] == "failed":
            self.reasons[str(result["reason"])] += 1

    def _line(self) -> Text:
        ended = self.before + self.now
        running = self.taken - self.now
        left = self.total - ended
        text = f"[{ended}/{self.total}] {running} running"
        if self.now:
            seconds = (time.monotonic() - self._start) / self.now * left
            text += f", about {timedelta(seconds=round(seconds))} left"
        return Text(text, style="dim")
