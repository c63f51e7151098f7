"""Choosing a hyperparameter for each group by validation alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import pandas

from cellzoo.compare.errors import CompareError
from cellzoo.compare.groups import Group, group_runs, one_monitor, require


@dataclass(frozen=True)
class Selection:
    """The chosen value of `key` for each group, and the runs that have it."""

    key: str
    runs: pandas.DataFrame
    values: dict[tuple[str, ...], str]
    trials: tuple[int, ...]  # runs of each value, the same for every group


def select_runs(runs: pandas.DataFrame, by: Sequence[str], key: str) -> Selection:
    """For each group the value of `key` whose mean best-validation metric is best.

    A diverged or failed run is a trial, and as bad as can be. Groups that were tried more or
    less often than others raise: the best of more trials is better by chance. Nothing but
    `status` and the monitored validation metric is looked at.
    """
    if key in by:
        raise CompareError(f"{key} is compared (--by) and cannot be selected too")
    monitor, mode = one_monitor(runs, ", ".join(sorted(runs["task"].unique())))
    if monitor is None or not monitor.startswith("val/"):
        raise CompareError(f"--select needs a monitored validation metric, the runs have {monitor}")
    require(runs, monitor)

    values: dict[tuple[str, ...], str] = {}
    trials: dict[str, tuple[int, ...]] = {}
    chosen = []
    for group in group_runs(runs, by):
        candidates = group_runs(group.runs, [key])
        trials[group.label] = tuple(sorted(len(candidate.runs) for candidate in candidates))
        best = max(candidates, key=lambda candidate: _merit(candidate, monitor, mode))
        values[group.key] = best.key[0]
        chosen.append(best.runs)
    if all(len(each) == 1 for each in trials.values()):
        raise CompareError(f"--select {key}: every group was run with one value of it only")
    if len(set(trials.values())) > 1:
        counts = "; ".join(
            f"{label}: {len(runs_each)} values, {sum(runs_each)} runs "
            f"({' + '.join(map(str, runs_each))})"
            for label, runs_each in trials.items()
        )
        raise CompareError(f"--select {key} needs as many trials in every group, found {counts}")
    return Selection(key, pandas.concat(chosen), values, next(iter(trials.values())))


def _merit(candidate: Group, monitor: str, mode: str | None) -> tuple[float, float, float]:
    """More is better; where runs broke, fewer of them, then the mean of the others."""
    broken = len(candidate.runs) - len(candidate.done)
    scores = candidate.done[monitor].to_numpy(float) if len(candidate.done) else numpy.array([])
    average = numpy.sort(scores).mean() if len(scores) else -numpy.inf
    average = -average if mode == "min" and len(scores) else average
    return (-numpy.inf if broken else average), -broken, average
