"""Means, intervals and paired differences; equal inputs give equal results."""

from collections.abc import Sequence

import numpy
import pandas
from scipy.stats import bootstrap

from cellzoo.compare.keys import row_keys

CONFIDENCE = 0.95
_GRID = 2**30


def mean(values: Sequence[float] | numpy.ndarray) -> float:
    """Return the mean, NaN for no values.

    The values are sorted first: the order of runs does not change a digit.

    Examples:
        >>> mean([0.5, 0.25])
        0.375
    """
    return float(numpy.sort(values).mean()) if len(values) else float("nan")


def mean_interval(
    values: Sequence[float] | numpy.ndarray, resamples: int = 9999
) -> tuple[float, float]:
    """Return the 95% bootstrap interval (BCa) of the mean.

    Fewer than two values give NaN, equal values an interval of width 0.

    Examples:
        >>> low, high = mean_interval([0.1, 0.2, 0.4, 0.5])
        >>> 0.1 < low < 0.3 < high < 0.5
        True
        >>> mean_interval([0.5, 0.5])
        (0.5, 0.5)
    """
    low, high = mean_intervals(numpy.asarray(values, dtype=float)[:, None], resamples)
    return float(low[0]), float(high[0])


def mean_intervals(
    values: numpy.ndarray, resamples: int = 9999
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return `mean_interval` of each column of `values` (observations, columns).

    Returns:
        The lower and the upper bounds, (columns,) each.
    """
    count, columns = values.shape
    low, high = numpy.full((2, columns), numpy.nan)
    if count < 2:
        return low, high
    ordered = numpy.sort(values, axis=0)
    with numpy.errstate(invalid="ignore"):  # inf - inf: infinite values have no interval
        smallest, width = ordered[0], ordered[-1] - ordered[0]
    equal = width == 0
    low[equal] = high[equal] = smallest[equal]

    usable = numpy.isfinite(width) & (width > 0)
    if not usable.any():
        return low, high
    # BCa counts the resampled means that equal the observed mean. Rounding breaks the equality of
    # float sums, but not of sums of whole numbers: the interval then moves with the data.
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
    """Return the metric of `runs` minus that of `baseline`, for each common setting.

    Several runs of one setting count once, by the mean. A run without the metric, such as a
    diverged run, makes no pair.

    Args:
        runs, baseline: frames of runs.
        metric: the column to compare.
        on: the columns that are equal in the two runs of a pair.

    Examples:
        >>> runs = pandas.DataFrame({"seed": [0, 1, 2], "test/loss": [0.5, 0.75, 0.25]})
        >>> baseline = pandas.DataFrame({"seed": [0, 1], "test/loss": [0.25, 0.25]})
        >>> paired_differences(runs, baseline, "test/loss", on=["seed"]).tolist()
        [0.25, 0.5]
    """
    left, right = _by_setting(runs, metric, on), _by_setting(baseline, metric, on)
    return numpy.array([left[key] - right[key] for key in sorted(left.keys() & right.keys())])


def _by_setting(
    runs: pandas.DataFrame, metric: str, on: Sequence[str]
) -> dict[tuple[str, ...], float]:
    """Return the mean of the metric for each setting."""
    values: dict[tuple[str, ...], list[float]] = {}
    for key, value in zip(row_keys(runs, on), runs[metric], strict=True):
        if not numpy.isnan(value):
            values.setdefault(key, []).append(value)
    return {key: mean(numbers) for key, numbers in values.items()}
