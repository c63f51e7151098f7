"""The columns of a benchmark's table, and means over its shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import pandas

from cellzoo.bench.contenders import Absent, Contender
from cellzoo.bench.shape import Shape

MEASURED = "measured"
#: Columns that are whole numbers, or nothing.
WHOLE = (*Shape._fields, "parameters", "multiply_adds", "peak_bytes", "rounds")
RATIOS = ("ratio", "ratio_per_multiply_add")


def row(
    contender: Contender,
    shape: Shape,
    *,
    first: float,
    peak: int,
    forward: Sequence[float],
    step: Sequence[float],
    matrix_rate: float,
    baseline: tuple[Contender, Sequence[float]] | None,
) -> dict[str, object]:
    """One contender at one shape.

    Args:
        first: the seconds of the first forward pass and training step, compilation included.
        peak: the bytes that a training step holds at once.
        forward, step: the seconds of each in every round.
        matrix_rate: floating-point operations a second of a large matrix product.
        baseline: torch.nn.LSTM and the seconds of its training step in every round.

    Returns:
        Times are medians over the rounds, `_low` and `_high` their quartiles. `matrix_share`:
        the 6·T·B·multiply_adds floating-point operations of a training step (2 a multiply-add,
        forward and twice backward; the gradient of x, which a first layer does not take, counts
        too, so it is an upper bound) over time and matrix_rate. `ratio`: the median over the
        rounds of the step's time over torch.nn.LSTM's in the same round; `ratio_per_multiply_add`:
        the same over the ratio of the two's multiply-adds.
    """
    name, cell, engine, _ = contender.candidate
    times = [_quartiles(numpy.asarray(each) * 1e3) for each in (forward, step)]
    tokens = shape.steps * shape.batch / (times[1][1] / 1e3)
    flops = 6 * contender.multiply_adds * tokens
    ratio, per_multiply_add = (numpy.nan,) * 3, numpy.nan
    if baseline is not None:
        other, its_step = baseline
        ratio = _quartiles(numpy.asarray(step) / numpy.asarray(its_step))
        if contender.multiply_adds:
            per_multiply_add = ratio[1] * other.multiply_adds / contender.multiply_adds
    return {
        **_identity(name, cell, engine, MEASURED, "", shape),
        "parameters": contender.parameters,
        "multiply_adds": contender.multiply_adds,
        **_columns("forward_ms", times[0]),
        **_columns("step_ms", times[1]),
        "tokens_per_second": tokens,
        "peak_bytes": peak,
        "first_seconds": first,
        "gflops": flops / 1e9,
        "matrix_gflops": matrix_rate / 1e9,
        "matrix_share": flops / matrix_rate,
        **_columns("ratio", ratio),
        "ratio_per_multiply_add": per_multiply_add,
        "rounds": len(step),
    }


def absent_row(absent: Absent, shape: Shape | None) -> dict[str, object]:
    """What does not take part at a shape, or (None) at any."""
    return _identity(*absent, shape)


def by_shape(rows: pandas.DataFrame) -> list[tuple[Shape, pandas.DataFrame]]:
    """The rows of each shape, as they follow each other."""
    groups: Any = rows.groupby(list(Shape._fields), sort=False)
    return [(Shape(*map(int, sizes)), group) for sizes, group in groups]


def overall(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Geometric means of the ratios over the shapes, a row a contender, the fastest first.

    `shapes`: over how many; a mean over fewer is not comparable with one over all.
    """
    measured = rows[rows["status"] == MEASURED]
    found = [
        {"contender": name, "cell": cell, "engine": engine}
        | {column: _geometric_mean(group[column]) for column in RATIOS}
        | {"shapes": len(group)}
        for (name, cell, engine), group in measured.groupby(["contender", "cell", "engine"])
    ]
    return pandas.DataFrame(found).sort_values("ratio", kind="stable", ignore_index=True)


def _geometric_mean(values: pandas.Series) -> float:
    return float(numpy.exp(numpy.log(values.to_numpy(float)).mean()))


def _identity(
    name: str, cell: str, engine: str, status: str, reason: str, shape: Shape | None
) -> dict[str, object]:
    who = {"contender": name, "cell": cell, "engine": engine, "status": status, "reason": reason}
    return who | (dict.fromkeys(Shape._fields, pandas.NA) if shape is None else shape._asdict())


def _quartiles(values: numpy.ndarray) -> tuple[float, float, float]:
    low, middle, high = numpy.quantile(values, [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def _columns(name: str, quartiles: tuple[float, float, float]) -> dict[str, float]:
    low, middle, high = quartiles
    return {name: middle, f"{name}_low": low, f"{name}_high": high}
