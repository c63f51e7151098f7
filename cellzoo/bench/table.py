"""The tables of a benchmark, for the terminal and as Markdown."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas
import rich.table
from rich.console import Console
from rich.text import Text

from cellzoo.bench.results import MEASURED, by_shape, overall
from cellzoo.bench.shape import Shape

NOTES = (
    "Times are medians over the rounds; quartiles are of the training step (forward, and backward "
    "to the parameters).",
    "× LSTM: over torch.nn.LSTM's training step in the same round, the median; per multiply-add: "
    "that over the ratio of the two's multiply-adds.",
    "of mm: a training step's arithmetic over its time, as a share of the rate of a large torch.mm "
    "(an upper bound: x's gradient is counted, not taken).",
    "peak: what a training step holds at once, tensors only. first: seconds of the first calls, "
    "compilation included.",
)


class Table(NamedTuple):
    """A table of text; the first `names` columns are words, the others numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int


def tables(rows: pandas.DataFrame) -> Iterator[Table]:
    """Yield a table for each shape, the fastest first, then the means and the absent contenders."""
    measured = rows[rows["status"] == MEASURED]
    shapes = by_shape(measured)
    for shape, at in shapes:
        yield _of_shape(shape, at.sort_values("step_ms", kind="stable"))
    if len(shapes) > 1:
        yield _of_means(overall(rows), len(shapes))
    absent = rows[rows["status"] != MEASURED]
    if len(absent):
        yield _of_absent(absent, len(by_shape(rows)))


def print_tables(rows: pandas.DataFrame, console: Console) -> None:
    """Print every table and the notes on the columns."""
    for table in tables(rows):
        rendered = rich.table.Table(title=Text(table.title), title_justify="left")
        for number, name in enumerate(table.header):
            numeric = number >= table.names
            rendered.add_column(
                Text(name), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold"
            )
        for cells in table.rows:
            rendered.add_row(*(Text(cell) for cell in cells))
        # If the table is wider than the terminal, wrapped lines show every number.
        width = console.measure(rendered, options=console.options.update(max_width=10_000)).maximum
        console.print(rendered, width=max(width, console.width) if table.names < 4 else None)
        console.print()
    console.print("\n".join(NOTES), markup=False, highlight=False)


def markdown(rows: pandas.DataFrame) -> str:
    """Return every table and the notes on the columns in Markdown."""
    parts = []
    for table in tables(rows):
        rule = ["---"] * table.names + ["--:"] * (len(table.header) - table.names)
        lines = ["| " + " | ".join(cells) + " |" for cells in (table.header, rule, *table.rows)]
        parts.append("\n".join([f"## {table.title}", "", *lines]))
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in NOTES)]) + "\n"


def _of_shape(shape: Shape, rows: pandas.DataFrame) -> Table:
    header = ["", "engine", "forward ms", "step ms", "quartiles", "tokens/s", "peak MiB", "of mm",
              "× LSTM", "per multiply-add", "first s"]  # fmt: skip
    cells = [
        [
            row["contender"],
            row["engine"],
            _number(row["forward_ms"]),
            _number(row["step_ms"]),
            f"{_number(row['step_ms_low'])} – {_number(row['step_ms_high'])}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['peak_bytes'] / 2**20:,.2f}",
            f"{row['matrix_share']:.1%}",
            _ratio(row["ratio"]),
            _ratio(row["ratio_per_multiply_add"]),
            f"{row['first_seconds']:.2f}",
        ]
        for _, row in rows.iterrows()
    ]
    rate = rows["matrix_gflops"].iloc[0]
    title = f"{shape} (steps, batch, input, hidden); torch.mm at {rate:,.0f} GFLOP/s"
    return Table(title, header, cells, names=2)


def _of_means(means: pandas.DataFrame, shapes: int) -> Table:
    header = ["", "engine", "× LSTM", "per multiply-add", "shapes"]
    cells = [
        [
            row["contender"],
            row["engine"],
            _ratio(row["ratio"]),
            _ratio(row["ratio_per_multiply_add"]),
            f"{row['shapes']} of {shapes}",
        ]
        for _, row in means.iterrows()
    ]
    return Table("Geometric means over the shapes", header, cells, names=2)


def _of_absent(rows: pandas.DataFrame, shapes: int) -> Table:
    """Return the table of the absent contenders, by reason."""
    cells = []
    for (engine, status, reason), group in rows.groupby(["engine", "status", "reason"], sort=False):
        for place, names in _by_shapes(group, shapes).items():
            cells.append([str(engine), ", ".join(names), str(status), f"{reason}{place}"])
    return Table("Not measured", ["engine", "", "", "reason"], cells, names=4)


def _by_shapes(group: pandas.DataFrame, shapes: int) -> dict[str, list[str]]:
    """Return the contenders by the shapes at which they are absent; "" stands for all shapes."""
    contenders: dict[str, list[str]] = {}
    for name, rows in group.groupby("contender", sort=False):
        at = [str(shape) for shape, _ in by_shape(rows)]
        place = f" (at {'; '.join(at)})" if 0 < len(at) < shapes else ""
        contenders.setdefault(place, []).append(str(name))
    return contenders


def _number(value: float) -> str:
    """Return a number with three digits and without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _ratio(value: float) -> str:
    return "–" if pandas.isna(value) else f"{value:.2f}"
