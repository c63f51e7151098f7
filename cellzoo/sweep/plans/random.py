"""Random search: values drawn from intervals, in Hydra's syntax.

The values given by commas are a grid as ever. A trial draws a value of each interval; it is run
for every point of the grid, so that cells are compared at the same draws, and for every seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hydra.core.override_parser.types import IntervalSweep, Override

from cellzoo.config.compose import ConfigError
from cellzoo.sweep.plans.grid import Plan
from cellzoo.sweep.settings import whole_number
from cellzoo.tasks import tasks


@dataclass(frozen=True)
class Interval:
    """The values of a key that a search may take.

    Attributes:
        low, high: the ends, which are among them.
        log: whether their logarithm is what is uniform.
        whole: whether they are whole numbers.
    """

    key: str
    low: float
    high: float
    log: bool
    whole: bool

    @classmethod
    def of(cls, override: Override) -> Interval:
        """What `key=interval(…)` says, with int(…) and tag(log,…) around it or not.

        Raises:
            ConfigError: ends that are no interval, or an unknown tag.
        """
        value: Any = override.value()
        assert isinstance(value, IntervalSweep)
        line = override.input_line
        if unknown := value.tags - {"log"}:
            raise ConfigError(f"{line}: an interval's tag is log, not {', '.join(unknown)}")
        low, high = value.start, value.end
        if low is None or high is None or not -math.inf < low < high < math.inf:
            raise ConfigError(f"{line}: interval(low,high) wants low below high, both finite")
        log = "log" in value.tags
        if log and low <= 0:
            raise ConfigError(f"{line}: the logarithm wants an interval above 0")
        return cls(override.get_key_element(), low, high, log, isinstance(low, int))

    def at(self, share: float) -> float:
        """The value at a share of the way from low to high, from 0 to below 1."""
        low, high = (self.low, self.high + 1) if self.whole else (self.low, self.high)
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        value = math.floor(value) if self.whole else float(f"{value:.6g}")  # as it is written
        return min(max(value, self.low), self.high)

    def override(self, value: float) -> str:
        """This value of the key."""
        return f"{self.key}={value!r}"


class RandomSearch:
    """A plan (see `plan.Plan`) whose trials draw a value of each interval.

    Args:
        grid: what the other overrides give.
        intervals: what is searched.
        settings: the config's `search`.
        config_of: the config that overrides give.

    Attributes:
        studies: the points of the grid, seeds aside: each has trials of its own.
        repeats: how many runs a trial is: one for each seed.
    """

    prunes = False

    def __init__(
        self,
        grid: Plan,
        intervals: Sequence[Interval],
        settings: Mapping[str, Any],
        config_of: Callable[[Sequence[str]], Mapping[str, Any]],
    ) -> None:
        self.trials = whole_number("search.trials", settings["trials"])
        self.seed = whole_number("search.seed", settings["seed"], least=0)
        self.intervals = list(intervals)
        self.config_of = config_of
        self._grid = grid
        seeds = tuple(axis for axis in grid.axes if axis[0].startswith("seed="))
        self._seeds = Plan(seeds)
        self._points = Plan(tuple(axis for axis in grid.axes if axis not in seeds))
        self.studies = list(self._points.jobs())
        self.repeats = self._seeds.total
        self._places: list[tuple[int, int]] = []  # of each job: its study and its trial
        self._values: dict[tuple[int, int], tuple[str, ...]] = {}
        self._results: dict[tuple[int, int], list[Mapping[str, Any]]] = {}

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return self._grid.total * self.trials

    def jobs(self) -> Iterator[tuple[str, ...]]:
        """Every job's overrides, trial by trial."""
        for trial in range(self.trials):
            for study, point in enumerate(self.studies):
                values = self._values[study, trial] = self.ask(study, trial)
                for seed in self._seeds.jobs():
                    self._places.append((study, trial))
                    yield (*point, *values, *seed)

    def probes(self) -> Iterator[tuple[str, ...]]:
        """Jobs that have every value, and both ends of the intervals, once."""
        low, high = self.ends
        points = list(self._grid.probes())
        yield (*points[0], *high)
        yield from ((*point, *low) for point in points)

    @property
    def ends(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The overrides with the lowest values, and those with the highest."""
        return (
            tuple(each.override(each.low) for each in self.intervals),
            tuple(each.override(each.high) for each in self.intervals),
        )

    def said(self, overrides: Sequence[str]) -> str:
        """What sets a job apart."""
        several = {value for axis in self._grid.axes if len(axis) > 1 for value in axis}
        searched = {each.key for each in self.intervals}
        return " ".join(o for o in overrides if o in several or o.split("=")[0] in searched)

    def trial(self, number: int) -> dict[str, Any] | None:
        """What a job's process must know to report its curve; None where nobody asks for it."""
        return None

    def ask(self, study: int, trial: int) -> tuple[str, ...]:
        """The overrides that a trial draws."""
        shares = np.random.default_rng([self.seed, trial]).random(len(self.intervals))
        return tuple(
            each.override(each.at(share))
            for each, share in zip(self.intervals, shares, strict=True)
        )

    def tell(self, number: int, result: Mapping[str, Any]) -> None:
        """Take in how a job ended."""
        place = self._places[number - 1]
        results = self._results.setdefault(place, [])
        results.append(result)
        if len(results) == self.repeats:
            self.told(*place, results)

    def told(self, study: int, trial: int, results: Sequence[Mapping[str, Any]]) -> None:
        """All runs of a trial have ended."""

    def best(self) -> list[str]:
        """For each study, the best trial by validation, in a line."""
        lines = []
        for study, point in enumerate(self.studies):
            ended = {
                t: found
                for (s, t), found in self._results.items()
                if s == study and len(found) == self.repeats
            }
            means = {t: mean for t, found in ended.items() if (mean := mean_of(found)) is not None}
            if not means:
                continue
            sign = 1 if self.mode(study) == "max" else -1
            trial = max(means, key=lambda t: sign * means[t])
            where = self._points.said(point)
            lines.append(
                f"best{f' of {where}' if where else ''}: {' '.join(self._values[study, trial])}  "
                f"{means[trial]:.4g} by validation, trial {trial + 1} of {len(ended)}"
            )
        return lines

    def mode(self, study: int) -> str:
        """ "min" or "max": what a study's monitored metric is better for being."""
        return tasks[self.config(study)["task"]["name"]].mode

    def config(self, study: int) -> Mapping[str, Any]:
        """A study's config, with the lowest values and the first seed."""
        return self.config_of((*self.studies[study], *self.ends[0], *next(self._seeds.jobs())))


def mean_of(results: Sequence[Mapping[str, Any]]) -> float | None:
    """A trial's value: the mean of its runs' monitored metric; None where one has none."""
    values = [
        result["metrics"].get(result["monitor"]) if result["status"] == "done" else None
        for result in results
    ]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
