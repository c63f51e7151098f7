"""The columns of a benchmark's table, and means over the shapes."""

from collections.abc import Sequence
from typing import Any

import numpy
import pandas

from cellzoo.bench.contenders import Absent, Contender
from cellzoo.bench.shape import Shape

MEASURED = "measured"
#: The columns of whole numbers; they may be empty.
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
    """Return the columns of one contender at one shape.

    Args:
        contender: the measured layer.
        shape: the sizes.
        first: the seconds of the first forward pass and training step, compilation included.
        peak: the peak memory of a training step in bytes.
        forward, step: the seconds of a forward pass and of a training step in every round.
        matrix_rate: the floating-point operations per second of a large matrix product.
        baseline: torch.nn.LSTM and the seconds of a training step in every round.

    Returns:
        The columns by name. Times are medians over the rounds; `_low` and `_high` are quartiles.

        - `matrix_share`: the floating-point operations of a training step over time and
          matrix_rate. The operations are 6·T·B·multiply_adds: 2 for each multiply-add, once
          forward and twice backward. This is an upper bound, since it counts the gradient of x,
          which a first layer does not compute.
        - `ratio`: the median over the rounds of the training step's time relative to
          torch.nn.LSTM in the same round.
        - `ratio_per_multiply_add`: `ratio` over the ratio of the multiply-adds.
    """
    name, cell, engine, _ = contender.candidate
    forward_ms, step_ms = (_quartiles(numpy.asarray(times) * 1e3) for times in (forward, step))
    tokens = shape.steps * shape.batch / (step_ms[1] / 1e3)
    flops = 6 * contender.multiply_adds * tokens
    ratio, per_multiply_add = (numpy.nan,) * 3, numpy.nan
    if baseline is not None:
        lstm, lstm_step = baseline
        ratio = _quartiles(numpy.asarray(step) / numpy.asarray(lstm_step))
        if contender.multiply_adds:
            per_multiply_add = ratio[1] * lstm.multiply_adds / contender.multiply_adds
    return {
        **_identity(name, cell, engine, MEASURED, "", shape),
        "parameters": contender.parameters,
        "multiply_adds": contender.multiply_adds,
        **_columns("forward_ms", forward_ms),
        **_columns("step_ms", step_ms),
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
    """Return the columns of an absent contender at one shape, or (None) at every shape."""
    return _identity(*absent, shape)


def by_shape(rows: pandas.DataFrame) -> list[tuple[Shape, pandas.DataFrame]]:
    """Return the rows of each shape, in the order of the rows."""
    groups: Any = rows.groupby(list(Shape._fields), sort=False)
    return [(Shape(*map(int, sizes)), group) for sizes, group in groups]


def overall(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Return geometric means of the ratios over the shapes, one row for each contender.

    The fastest contender comes first. The column `shapes` is the number of shapes; means over
    different shapes are not comparable.
    """
    measured = rows[rows["status"] == MEASURED]
    means = [
        {"contender": name, "cell": cell, "engine": engine}
        | {column: _geometric_mean(group[column]) for column in RATIOS}
        | {"shapes": len(group)}
        for (name, cell, engine), group in measured.groupby(["contender", "cell", "engine"])
    ]
    return pandas.DataFrame(means).sort_values("ratio", kind="stable", ignore_index=True)


def _geometric_mean(values: pandas.Series) -> float:
    return float(numpy.exp(numpy.log(values.to_numpy(float)).mean()))


def _identity(
    name: str, cell: str, engine: str, status: str, reason: str, shape: Shape | None
) -> dict[str, object]:
    names = {"contender": name, "cell": cell, "engine": engine, "status": status, "reason": reason}
    return names | (dict.fromkeys(Shape._fields, pandas.NA) if shape is None else shape._asdict())


def _quartiles(values: numpy.ndarray) -> tuple[float, float, float]:
    low, middle, high = numpy.quantile(values, [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def _columns(name: str, quartiles: tuple[float, float, float]) -> dict[str, float]:
    low, middle, high = quartiles
    return {name: middle, f"{name}_low": low, f"{name}_high": high}
