"""The table of a comparison: one row for each group, the best first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import pandas
import rich.table
from rich.console import Console
from rich.text import Text

from cellzoo.compare.baseline import differences_to, pairing_note
from cellzoo.compare.groups import Group, group_runs
from cellzoo.compare.keys import outermost, varying_keys
from cellzoo.compare.select import Selection
from cellzoo.compare.statistics import CONFIDENCE, mean, mean_interval


@dataclass(frozen=True)
class Table:
    """The table of one task.

    Attributes:
        task: the label of the task.
        metric: the compared metric.
        mode: the better direction, `max` or `min`.
        by: the compared config keys.
        rows: one row for each group.
        notes: the sentences below the table.
    """

    task: str
    metric: str
    mode: str
    by: tuple[str, ...]
    rows: pandas.DataFrame
    notes: tuple[str, ...]


def build_table(
    task: str,
    runs: pandas.DataFrame,
    by: Sequence[str],
    metric: str,
    mode: str,
    baseline: str | None = None,
    selection: Selection | None = None,
    unfinished: int = 0,
) -> Table:
    """Build the table of one task from the finished runs, or from the selected ones.

    Args:
        task: the label of the task.
        runs: the runs of the table.
        by: the compared config keys.
        metric: the compared metric.
        mode: the better direction, `max` or `min`.
        baseline: the group of the differences, as `--baseline`; None: no differences.
        selection: the selection that `runs` went through.
        unfinished: the number of runs that were left out.
    """
    groups = group_runs(runs, by)
    rows = [_row(task, group, by, metric, mode, selection) for group in groups]
    averaged = varying_keys([group.runs for group in groups], by)
    notes = _notes(runs, metric, mode, averaged, selection, unfinished)
    if baseline is not None:
        paired = differences_to(baseline, groups, by, metric)
        for row, columns in zip(rows, paired, strict=True):
            row |= columns
        notes.append(pairing_note(baseline, groups, by, paired))
    frame = pandas.DataFrame(rows)
    frame = frame.sort_values(
        "mean", ascending=mode == "min", kind="stable", na_position="last", ignore_index=True
    )
    return Table(task, metric, mode, tuple(by), frame, tuple(notes))


def print_table(table: Table, console: Console) -> None:
    """Print the table; a narrow terminal omits the less important columns."""
    for omitted in ((), ("seconds",), ("seconds", "best"), ("seconds", "best", "parameters")):
        rendered = render(table, omitted)
        width = console.measure(rendered, options=console.options.update(max_width=10_000)).maximum
        if width <= console.width:
            break
    # If the table is still wider than the terminal, wrapped lines show every number.
    console.width = max(console.width, width)
    console.print(rendered)
    if omitted:
        console.print(f"Omitted for lack of width: {', '.join(omitted)}; see table.csv.")


def render(table: Table, omitted: Sequence[str] = ()) -> rich.table.Table:
    """Return the table for a terminal, without the `omitted` columns."""
    better = "higher is better" if table.mode == "max" else "lower is better"
    selected = [name for name in table.rows.columns if name.startswith("selected ")]
    paired = "pairs" in table.rows
    rendered = rich.table.Table(
        title=Text(f"{table.task}: {table.metric} ({better})"),
        caption=Text("\n".join(table.notes)),
        caption_justify="left",
        title_justify="left",
    )
    for name in (*table.by, *selected):
        rendered.add_column(Text(name), overflow="fold")
    interval = f"{CONFIDENCE:.0%} interval"
    numbers = ["n", "mean", interval, "best", "diverged", "failed", "parameters", "seconds"]
    numbers = [name for name in numbers if name not in omitted]
    numbers += ["difference", interval, "pairs"] * paired
    for name in numbers:
        rendered.add_column(Text(name), justify="right", no_wrap=True)
    for _, row in table.rows.iterrows():
        cells = [*(row[name] for name in (*table.by, *selected)), str(row["n"])]
        cells += [_number(row["mean"]), _interval(row["low"], row["high"])]
        optional = {"best": _number(row["best"]), "diverged": str(row["diverged"])}
        optional |= {"failed": str(row["failed"]), "parameters": _range(row)}
        optional |= {"seconds": _number(row["seconds"], 3)}
        cells += [cell for name, cell in optional.items() if name not in omitted]
        if paired:
            cells += _difference_cells(row)
        rendered.add_row(*(Text(cell) for cell in cells))
    return rendered


def _row(
    task: str,
    group: Group,
    by: Sequence[str],
    metric: str,
    mode: str,
    selection: Selection | None,
) -> dict[str, object]:
    """Return the columns of one group."""
    values = _values(group, metric)
    low, high = mean_interval(values)
    parameters = group.runs["parameters"].dropna()
    row: dict[str, object] = {"task": task, **dict(zip(by, group.key, strict=True))}
    if selection is not None:
        row[f"selected {selection.key}"] = selection.values[group.key]
    return row | {
        "metric": metric,
        "n": len(values),
        "mean": mean(values),
        "low": low,
        "high": high,
        "best": float(values.max() if mode == "max" else values.min()) if len(values) else None,
        "diverged": int((group.runs["status"] == "diverged").sum()),
        "failed": int((group.runs["status"] == "failed").sum()),
        "parameters_min": parameters.min() if len(parameters) else None,
        "parameters_max": parameters.max() if len(parameters) else None,
        "seconds": mean(group.done["seconds"].to_numpy(float)),
    }


def _values(group: Group, metric: str) -> numpy.ndarray:
    return group.done[metric].to_numpy(float) if len(group.done) else numpy.array([])


def _notes(
    runs: pandas.DataFrame,
    metric: str,
    mode: str,
    averaged: list[str],
    selection: Selection | None,
    unfinished: int,
) -> list[str]:
    """Return the sentences below the table."""
    broken = runs["status"].value_counts()
    counts = [f"{len(runs)} run{'s' if len(runs) > 1 else ''}"]
    counts += [f"{broken[name]} {name}" for name in ("diverged", "failed") if name in broken]
    notes = [
        f"{', '.join(counts)}; {unfinished} unfinished left out.",
        f"Mean of {metric} ({mode}) over the done runs"
        + (f", which differ in {', '.join(outermost(averaged))}" if averaged else "")
        + ".",
        f"Interval: {CONFIDENCE:.0%} bootstrap (BCa) of the mean over runs; for fewer than about "
        "10 runs it is too narrow.",
    ]
    if selection is not None:
        per_value = " + ".join(map(str, selection.trials))
        notes.append(
            f"{selection.key} selected by mean best validation out of {len(selection.trials)} "
            f"values, {sum(selection.trials)} runs ({per_value}) a group."
        )
    return notes


def _number(value: float | None, digits: int = 4) -> str:
    if value is None or pandas.isna(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:#.{digits}g}"


def _interval(low: float, high: float) -> str:
    return "–" if pandas.isna(low) else f"{_number(low)} … {_number(high)}"


def _range(row: pandas.Series) -> str:
    low, high = row["parameters_min"], row["parameters_max"]
    if pandas.isna(low):
        return "–"
    return f"{low:,.0f}" if low == high else f"{low:,.0f} … {high:,.0f}"


def _difference_cells(row: pandas.Series) -> list[str]:
    if pandas.isna(row["pairs"]):
        return ["baseline", "–", "–"]
    difference = row["difference"]
    sign = "+" if not pandas.isna(difference) and difference > 0 else ""
    interval = _interval(row["difference_low"], row["difference_high"])
    return [sign + _number(difference), interval, str(int(row["pairs"]))]
