"""The output of a running sweep: a live line, a line for each job that ended, and a table."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cellzoo.run.command import summary
from cellzoo.run.result import RunResult, Status
from cellzoo.sweep.launchers.base import Outcome

STATUSES = (Status.DONE, Status.DIVERGED, Status.PRUNED, Status.FAILED)


class Progress:
    """The output of a running sweep.

    Args:
        console: the place to print.
        total: the number of jobs.
        slots: the number of jobs that run at once.
    """

    def __init__(self, console: Console, total: int, slots: int) -> None:
        self.console, self.total, self.slots = console, total, slots
        self.by_cell: dict[str, Counter[Status]] = {}
        self.reasons: Counter[str] = Counter()
        self.before = 0  # runs that had ended before the sweep was started
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
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """Print a remark."""
        self.console.print(f"[dim]{escape(text)}[/dim]", soft_wrap=True)

    def ended_before(self, result: RunResult) -> None:
        """Count a run that had ended before the sweep was started."""
        self.before += 1
        self._count(result)

    def same(self, label: str, number: int) -> None:
        """Print that a job is the same run as job `number`, and do not count it."""
        self.total -= 1
        self.note(f"{label} is the same run as job {number}")

    def started(self) -> None:
        """Count a job that the launcher took."""
        self.taken += 1

    def ended(self, outcome: Outcome) -> None:
        """Print the outcome of a job, by validation: tuning must not see the test split."""
        self.now += 1
        self._count(outcome.result)
        place = f"[{self.before + self.now}/{self.total}]"
        label = outcome.job.label or f"cell={outcome.job.config.cell.name}"
        self.console.print(escape(f"{place} {label}  {summary(outcome.result)}"), soft_wrap=True)

    def tally(self) -> None:
        """Print the number of jobs of each status by cell, and the reasons of failures."""
        if self.before:
            self.note(f"{self.before} had ended before")
        self.console.print(count_table(dict(sorted(self.by_cell.items())), STATUSES))
        for reason, number in sorted(self.reasons.items()):
            times = f" ({number} jobs)" if number > 1 else ""
            self.console.print(f"failed: {escape(reason)}{times}", soft_wrap=True)

    @property
    def all_done(self) -> bool:
        """Return whether every job is done or pruned."""
        good = {Status.DONE, Status.PRUNED}
        return all(set(+counts) <= good for counts in self.by_cell.values())

    def _count(self, result: RunResult) -> None:
        self.by_cell.setdefault(result.cell, Counter())[result.status] += 1
        if result.status is Status.FAILED:
            self.reasons[str(result.reason)] += 1

    def _line(self) -> Text:
        ended = self.before + self.now
        left = self.total - ended
        text = f"[{ended}/{self.total}] {self.taken - self.now} running"
        if self.now:
            seconds = (time.monotonic() - self._start) / self.now * left
            text += f", about {timedelta(seconds=round(seconds))} left"
        return Text(text, style="dim")


def count_table(by_cell: dict[str, Counter[Status]], statuses: Sequence[Status]) -> Table:
    """Return a table of the number of jobs by cell and status; `pruned` only if there are any."""
    total = sum(by_cell.values(), Counter[Status]())
    shown = [status for status in statuses if status is not Status.PRUNED or total[status]]
    table = Table("cell", box=None, pad_edge=False)
    for status in shown:
        table.add_column(status, justify="right")
    for cell, counts in {**by_cell, "all": total}.items():
        table.add_row(cell, *(str(counts[status]) for status in shown))
    return table
