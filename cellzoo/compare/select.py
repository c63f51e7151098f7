"""Selecting a hyperparameter for each group by validation alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import pandas

from cellzoo.compare.errors import CompareError
from cellzoo.compare.groups import Group, group_runs, one_monitor, require


@dataclass(frozen=True)
class Selection:
    """The selected value of a config key for each group.

    Attributes:
        key: the config key.
        runs: the runs with a selected value.
        values: the selected value of each group, as text.
        trials: the number of runs of each value, the same for every group.
    """

    key: str
    runs: pandas.DataFrame
    values: dict[tuple[str, ...], str]
    trials: tuple[int, ...]


def select_runs(runs: pandas.DataFrame, by: Sequence[str], key: str) -> Selection:
    """Select the value of `key` with the best mean validation metric in each group.

    A diverged or failed run counts as the worst trial. Only the status and the monitored
    validation metric enter the selection.

    Raises:
        CompareError: `key` is in `by`, was not varied, or the groups have different numbers of
            trials. The best of more trials is better by chance.
    """
    if key in by:
        raise CompareError(f"{key} is a key of --by and cannot be selected too")
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
    if all(len(counts) == 1 for counts in trials.values()):
        raise CompareError(f"--select {key}: every group has runs of one value only")
    if len(set(trials.values())) > 1:
        found = "; ".join(
            f"{label}: {len(counts)} values, {sum(counts)} runs ({' + '.join(map(str, counts))})"
            for label, counts in trials.items()
        )
        raise CompareError(
            f"--select {key} requires the same number of trials in every group, but has {found}"
        )
    return Selection(key, pandas.concat(chosen), values, next(iter(trials.values())))


def _merit(candidate: Group, monitor: str, mode: str | None) -> tuple[float, float, float]:
    """Return a sorting key, larger is better: no broken run, then fewer of them, then the mean."""
    broken = len(candidate.runs) - len(candidate.done)
    scores = candidate.done[monitor].to_numpy(float) if len(candidate.done) else numpy.array([])
    average = numpy.sort(scores).mean() if len(scores) else -numpy.inf
    average = -average if mode == "min" and len(scores) else average
    return (-numpy.inf if broken else average), -broken, average
