"""The parts that every search shares: intervals, trials, and their results.

Comma-separated values are swept as a grid. A trial takes one value of each interval. It is run at
every point of the grid, which compares cells at the same draws, and with every seed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override

from cellzoo.config import schema
from cellzoo.config.checks import ConfigError
from cellzoo.run.result import RunResult, Status
from cellzoo.sweep.plans.base import TrialAddress
from cellzoo.sweep.plans.grid import GridPlan
from cellzoo.sweep.settings import whole_number
from cellzoo.tasks import tasks


@dataclass(frozen=True)
class Interval:
    """The values of a key that a search may take.

    Attributes:
        key: the key of the config.
        low, high: the ends, which are values too.
        log: whether the logarithm of the value is uniform, rather than the value.
        whole: whether values are whole numbers.

    >>> interval = Interval("optimizer.lr", 0.001, 0.1, log=True, whole=False)
    >>> interval.override(interval.at(0.5))
    'optimizer.lr=0.01'
    """

    key: str
    low: float
    high: float
    log: bool
    whole: bool

    @classmethod
    def of(cls, override: Override) -> Interval:
        """Return the interval of `key=interval(…)`, with or without int(…) and tag(log,…).

        Raises:
            ConfigError: the ends are not an interval, or a tag is unknown.
        """
        value: Any = override.value()
        assert isinstance(value, IntervalSweep)
        line = override.input_line
        if unknown := value.tags - {"log"}:
            raise ConfigError(f"{line}: the tag of an interval is log, not {', '.join(unknown)}")
        low, high = value.start, value.end
        if low is None or high is None or not -math.inf < low < high < math.inf:
            raise ConfigError(f"{line}: interval(low,high) requires low below high, both finite")
        log = "log" in value.tags
        if log and low <= 0:
            raise ConfigError(f"{line}: the tag log requires an interval above 0")
        return cls(override.get_key_element(), low, high, log, isinstance(low, int))

    def at(self, share: float) -> float:
        """Return the value at a share of the way from low to high, with 0 <= share < 1."""
        low, high = (self.low, self.high + 1) if self.whole else (self.low, self.high)
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        value = math.floor(value) if self.whole else float(f"{value:.6g}")  # as it is recorded
        return min(max(value, self.low), self.high)

    def override(self, value: float) -> str:
        """Return the override that sets the key to a value."""
        return f"{self.key}={value!r}"


class SearchPlan(ABC):
    """A plan of trials: everything of a `Plan` but the values that a trial takes.

    Args:
        grid: the plan of the comma-separated values.
        intervals: the keys to search.
        settings: the config's `search`.
        config_of: composes the config of some overrides.

    Attributes:
        studies: the points of the grid without seeds; each has trials of its own.
        repeats: the number of runs of a trial, one for each seed.
    """

    prunes = False

    def __init__(
        self,
        grid: GridPlan,
        intervals: Sequence[Interval],
        settings: schema.Random,
        config_of: Callable[[Sequence[str]], schema.RunConfig],
    ) -> None:
        self.trials = whole_number("search.trials", settings.trials)
        self.seed = whole_number("search.seed", settings.seed, least=0)
        self.intervals = list(intervals)
        self.config_of = config_of
        self._grid = grid
        seeds = tuple(axis for axis in grid.axes if axis[0].startswith("seed="))
        self._seeds = GridPlan(seeds)
        self._points = GridPlan(tuple(axis for axis in grid.axes if axis not in seeds))
        self.studies = list(self._points.jobs())
        self.repeats = self._seeds.total
        self._places: list[tuple[int, int]] = []  # the study and the trial of each job
        self._values: dict[tuple[int, int], tuple[str, ...]] = {}
        self._results: dict[tuple[int, int], list[RunResult]] = {}

    @property
    def total(self) -> int:
        """Return the number of jobs."""
        return self._grid.total * self.trials

    def jobs(self) -> Iterator[tuple[str, ...]]:
        """Yield the overrides of each job, trial by trial."""
        for trial in range(self.trials):
            for study, point in enumerate(self.studies):
                values = self._values[study, trial] = self.propose(study, trial)
                for seed in self._seeds.jobs():
                    self._places.append((study, trial))
                    yield (*point, *values, *seed)

    @abstractmethod
    def propose(self, study: int, trial: int) -> tuple[str, ...]:
        """Return the overrides of a trial's values, one for each interval."""

    def probes(self) -> Iterator[tuple[str, ...]]:
        """Yield jobs that together have every value, and both ends of the intervals."""
        points = list(self._grid.probes())
        yield (*points[0], *(interval.override(interval.high) for interval in self.intervals))
        yield from ((*point, *self._lowest) for point in points)

    @property
    def _lowest(self) -> tuple[str, ...]:
        return tuple(interval.override(interval.low) for interval in self.intervals)

    def label(self, overrides: Sequence[str]) -> str:
        """Return the overrides of the keys with several values or an interval."""
        several = {value for axis in self._grid.axes if len(axis) > 1 for value in axis}
        searched = {interval.key for interval in self.intervals}
        return " ".join(o for o in overrides if o in several or o.split("=")[0] in searched)

    def trial(self, number: int) -> TrialAddress | None:
        """Return None: the plan does not prune."""
        return None

    def tell(self, number: int, result: RunResult) -> None:
        """Record the result of a finished job."""
        place = self._places[number - 1]
        results = self._results.setdefault(place, [])
        results.append(result)
        if len(results) == self.repeats:
            self.record(*place, results)

    def record(  # noqa: B027  (a search need not)
        self, study: int, trial: int, results: Sequence[RunResult]
    ) -> None:
        """Record a trial of which all runs are finished."""

    def best(self) -> list[str]:
        """Return for each study the trial with the best validation, in a line."""
        lines = []
        for study, point in enumerate(self.studies):
            finished = {
                trial: results
                for (owner, trial), results in self._results.items()
                if owner == study and len(results) == self.repeats
            }
            values = {trial: mean_of(results) for trial, results in finished.items()}
            means = {trial: mean for trial, mean in values.items() if mean is not None}
            if not means:
                continue
            sign = 1 if self.mode(study) == "max" else -1
            trial = max(means, key=lambda trial: sign * means[trial])
            where = self._points.label(point)
            lines.append(
                f"best{f' of {where}' if where else ''}: {' '.join(self._values[study, trial])}  "
                f"{means[trial]:.4g} by validation, trial {trial + 1} of {len(finished)}"
            )
        return lines

    def mode(self, study: int) -> str:
        """Return "min" or "max": the better direction of a study's monitored metric."""
        return tasks[self.config(study).task.name].mode

    def config(self, study: int) -> schema.RunConfig:
        """Return the config of a study with the lowest values and the first seed."""
        return self.config_of((*self.studies[study], *self._lowest, *next(self._seeds.jobs())))


def mean_of(results: Sequence[RunResult]) -> float | None:
    """Return the mean of the monitored metric; None where a run has none."""
    values = [result.monitored for result in results if result.status is Status.DONE]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(results) else None
