"""Random search: values drawn from intervals, in Hydra's syntax.

The values given by commas are a grid as ever. A trial draws a value of each interval; it is run
for every point of the grid, so that cells are compared at the same draws, and for every seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hydra.core.override_parser.types import IntervalSweep, Override

from cellzoo.config import ConfigError
from cellzoo.sweep.plan import Plan


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
        if low is None or high is None or not low < high:
            raise ConfigError(f"{line}: interval(low,high) wants low below high")
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
        if self.whole:
            return min(math.floor(value), int(self.high))
        return min(max(float(f"{value:.6g}"), self.low), self.high)  # as it is written

    def override(self, value: float) -> str:
        """This value of the key."""
        return f"{self.key}={value!r}"


class RandomSearch:
    """A plan (see `plan.Plan`) whose trials draw a value of each interval.

    Args:
        grid: what the other overrides give.
        intervals: what is searched.
        settings: the config's `search`.
        mode: "min" or "max", what the task's monitored metric is better for being.
    """

    prunes = False

    def __init__(
        self, grid: Plan, intervals: Sequence[Interval], settings: Mapping[str, Any], mode: str
    ) -> None:
        self.trials, self.seed = settings["trials"], settings["seed"]
        for key, least in (("trials", 1), ("seed", 0)):
            value = settings[key]
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(
                    f"search.{key} must be a whole number from {least} on, not {value!r}"
                )
        self.intervals = list(intervals)
        self.sign = 1 if mode == "max" else -1
        self._grid = grid
        self._seeds = [axis for axis in grid.axes if axis[0].startswith("seed=")]
        self._study_axes = Plan(tuple(axis for axis in grid.axes if axis not in self._seeds))
        self._trial_of: dict[tuple[str, ...], tuple[int, int]] = {}
        self._values: dict[tuple[int, int], list[float | None]] = {}

    @property
    def studies(self) -> list[tuple[str, ...]]:
        """The points of the grid, seeds aside: each has trials of its own."""
        return list(self._study_axes.jobs())

    @property
    def repeats(self) -> int:
        """How many runs a trial is."""
        return len(self._seeds[0]) if self._seeds else 1

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return self._grid.total * self.trials

    def jobs(self) -> Iterator[tuple[str, ...]]:
        """Every job's overrides, trial by trial."""
        seeds = Plan(tuple(self._seeds))
        for trial in range(self.trials):
            for study, point in enumerate(self.studies):
                values = self.ask(study, trial)
                for seed in seeds.jobs():
                    overrides = (*point, *values, *seed)
                    self._trial_of[overrides] = study, trial
                    yield overrides

    def probes(self) -> Iterator[tuple[str, ...]]:
        """Jobs that have every value, and both ends of the intervals, once."""
        low = tuple(each.override(each.low) for each in self.intervals)
        high = tuple(each.override(each.high) for each in self.intervals)
        points = list(self._grid.probes())
        yield (*points[0], *high)
        yield from ((*point, *low) for point in points)

    def said(self, overrides: Sequence[str]) -> str:
        """What sets a job apart."""
        several = {value for axis in self._grid.axes if len(axis) > 1 for value in axis}
        searched = {each.key for each in self.intervals}
        return " ".join(o for o in overrides if o in several or o.split("=")[0] in searched)

    def trial(self, overrides: tuple[str, ...]) -> dict[str, Any] | None:
        """What a job's process must know to report its curve; None where nobody asks for it."""
        return None

    def ask(self, study: int, trial: int) -> tuple[str, ...]:
        """The overrides that a trial draws."""
        shares = np.random.default_rng([self.seed, trial]).random(len(self.intervals))
        return tuple(
            each.override(each.at(share))
            for each, share in zip(self.intervals, shares, strict=True)
        )

    def tell(self, overrides: tuple[str, ...], result: Mapping[str, Any]) -> None:
        """Take a result in."""
        place = self._trial_of[overrides]
        values = self._values.setdefault(place, [])
        values.append(
            result["metrics"].get(result["monitor"]) if result["status"] == "done" else None
        )
        if len(values) == self.repeats:
            self.told(*place, self._mean(place), result)

    def told(self, study: int, trial: int, value: float | None, result: Mapping[str, Any]) -> None:
        """A trial is complete: the mean of its runs, or None where one has no value."""

    def _mean(self, place: tuple[int, int]) -> float | None:
        values = self._values[place]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == self.repeats else None

    def best(self) -> list[str]:
        """For each study, the best trial by validation, in a line."""
        lines = []
        overrides_of = {place: overrides for overrides, place in self._trial_of.items()}
        for study, point in enumerate(self.studies):
            means = {t: self._mean((s, t)) for s, t in self._values if s == study}
            complete = {trial: mean for trial, mean in means.items() if mean is not None}
            if not complete:
                continue
            trial = max(complete, key=lambda t: self.sign * complete[t])
            searched = {each.key for each in self.intervals}
            values = [o for o in overrides_of[study, trial] if o.split("=")[0] in searched]
            where = self._study_axes.said(point)
            lines.append(
                f"best{f' of {where}' if where else ''}: {' '.join(values)}  "
                f"{complete[trial]:.4g} by validation, trial {trial + 1} of {len(means)}"
            )
        return lines
