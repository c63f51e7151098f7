"""The plan `grid`: every combination of the comma-separated values."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cellzoo.config.compose import Axes
from cellzoo.run.result import RunResult
from cellzoo.sweep.plans.base import TrialAddress


@dataclass(frozen=True)
class GridPlan:
    """The product of the values of all keys, in Hydra's order: the last key varies fastest.

    Attributes:
        axes: the overrides of each key, one or several.

    >>> grid = GridPlan((("cell=lstm", "cell=gru"), ("seed=0",)))
    >>> list(grid.jobs())
    [('cell=lstm', 'seed=0'), ('cell=gru', 'seed=0')]
    >>> grid.label(("cell=gru", "seed=0"))
    'cell=gru'
    """

    axes: Axes

    prunes = False

    @property
    def total(self) -> int:
        """Return the number of jobs."""
        return math.prod(len(axis) for axis in self.axes)

    def jobs(self) -> Iterator[tuple[str, ...]]:
        """Yield the overrides of each job."""
        return itertools.product(*self.axes)

    def probes(self) -> Iterator[tuple[str, ...]]:
        """Yield the overrides of jobs that together have every value."""
        first = tuple(axis[0] for axis in self.axes)
        yield first
        for place, axis in enumerate(self.axes):
            for value in axis[1:]:
                yield (*first[:place], value, *first[place + 1 :])

    def label(self, overrides: Sequence[str]) -> str:
        """Return the overrides of the keys with several values."""
        pairs = zip(overrides, self.axes, strict=True)
        return " ".join(override for override, axis in pairs if len(axis) > 1)

    def trial(self, number: int) -> TrialAddress | None:
        """Return None: a grid has no trials."""
        return None

    def tell(self, number: int, result: RunResult) -> None:
        """Do nothing: the jobs of a grid do not depend on results."""

    def best(self) -> list[str]:
        """Return no line: `cellzoo compare` compares the runs of a grid."""
        return []
