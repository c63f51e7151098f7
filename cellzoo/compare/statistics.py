"""Intervals of a mean and paired differences, the same at every call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import pandas
from scipy.stats import bootstrap

from cellzoo.compare.keys import row_keys

CONFIDENCE = 0.95
_GRID = 2**30


def mean(values: Sequence[float] | numpy.ndarray) -> float:
    """The mean, NaN of nothing; sorted first, so that the order of runs changes no digit."""
    return float(numpy.sort(values).mean()) if len(values) else float("nan")


def mean_interval(
    values: Sequence[float] | numpy.ndarray, resamples: int = 9999
) -> tuple[float, float]:
    """The 95% bootstrap interval (BCa) of the mean of `values`.

    Fewer than two values give no interval (NaN), equal values one of no width.
    """
    low, high = mean_intervals(numpy.asarray(values, dtype=float)[:, None], resamples)
    return float(low[0]), float(high[0])


def mean_intervals(
    values: numpy.ndarray, resamples: int = 9999
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """`mean_interval` of each column of `values` (observations, columns): lows and highs."""
    count, columns = values.shape
    low, high = numpy.full((2, columns), numpy.nan)
    if count < 2:
        return low, high
    ordered = numpy.sort(values, axis=0)
    with numpy.errstate(invalid="ignore"):  # infinite values have no interval
        smallest, width = ordered[0], ordered[-1] - ordered[0]
    equal = width == 0
    low[equal] = high[equal] = smallest[equal]

    usable = numpy.isfinite(width) & (width > 0)
    if not usable.any():
        return low, high
    # Whole numbers, because BCa counts resampled means equal to the observed one and only sums
    # of whole numbers are equal where they should be: the interval then moves with the data.
    unit = width[usable] / _GRID
    whole = numpy.rint((ordered[:, usable] - smallest[usable]) / unit)
    interval = bootstrap(
        (whole,),
        numpy.mean,
        axis=0,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=numpy.random.default_rng(0),
    ).confidence_interval
    low[usable] = smallest[usable] + unit * interval.low
    high[usable] = smallest[usable] + unit * interval.high
    return low, high


def paired_differences(
    runs: pandas.DataFrame, baseline: pandas.DataFrame, metric: str, on: Sequence[str]
) -> numpy.ndarray:
    """`runs` less `baseline`, one value for each setting `on` that both have.

    Several runs of one setting count once, by their mean. A run without the metric (it
    diverged) makes no pair.
    """
    ours, theirs = _by_setting(runs, metric, on), _by_setting(baseline, metric, on)
    return numpy.array([ours[key] - theirs[key] for key in sorted(ours.keys() & theirs.keys())])


def _by_setting(
    runs: pandas.DataFrame, metric: str, on: Sequence[str]
) -> dict[tuple[str, ...], float]:
    values: dict[tuple[str, ...], list[float]] = {}
    for key, value in zip(row_keys(runs, on), runs[metric], strict=True):
        if not numpy.isnan(value):
            values.setdefault(key, []).append(value)
    return {key: mean(found) for key, found in values.items()}
