"""Learning curves and dot plots, without the global state of matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cellzoo.compare import metrics
from cellzoo.compare.groups import Group
from cellzoo.compare.statistics import mean, mean_interval, mean_intervals
from cellzoo.system.files import write_whole

#: Okabe and Ito's palette for colour-blind readers, without the yellow, which is hard to see on
#: white. From the eighth group on, the line style and the marker differ.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D")
TEXT = {"title": 13, "axis": 12, "tick": 11, "note": 9.5}
POINTS = 200


def styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return a colour, line style and marker for each group, the same in every plot."""
    return {
        label: {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": LINES[index // len(COLOURS) % len(LINES)],
            "marker": MARKERS[index // len(COLOURS) % len(MARKERS)],
        }
        for index, label in enumerate(labels)
    }


def plot_curves(
    groups: Sequence[Group],
    curves: pandas.DataFrame,
    metric: str,
    mode: str,
    style: Mapping[str, Mapping[str, Any]],
    task: str,
) -> Figure:
    """Plot a metric against the training step: the mean of each group's done runs and a band.

    A line ends at the shortest run of the group: otherwise the mean would jump where a run ends.
    """
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.add_subplot()
    bands = set()
    lowest, highest = numpy.inf, -numpy.inf
    for group in groups:
        values, steps = _on_common_steps(group, curves, metric)
        if not len(steps):
            continue
        middle = numpy.sort(values, axis=0).mean(axis=0)
        lowest, highest = min(lowest, middle.min()), max(highest, middle.max())
        low, high, band = _band(values)
        bands.add(band)
        group_style = style[group.label]
        label = f"{group.label} (n = {len(values)}{', min–max' if band == 'range' else ''})"
        axes.plot(
            steps,
            middle,
            color=group_style["color"],
            linestyle=group_style["linestyle"],
            linewidth=2,
            label=label,
            marker=group_style["marker"] if len(steps) == 1 else None,
        )
        if band != "none":
            axes.fill_between(steps, low, high, color=group_style["color"], alpha=0.15, linewidth=0)
    if mode == "min" and lowest > 0 and highest > 100 * lowest:
        axes.set_yscale("log")
    _decorate(axes, f"{task}: {metrics.label(metric)}")
    axes.set_xlabel("training step (optimizer updates)", fontsize=TEXT["axis"])
    axes.set_ylabel(metrics.label(metric), fontsize=TEXT["axis"])
    figure.legend(loc="outside right upper", fontsize=TEXT["tick"], frameon=False, handlelength=2.8)
    note = "line: mean over runs"
    if "interval" in bands:
        note += "; band: 95% bootstrap interval of the mean"
    if "range" in bands:
        note += "; min–max: band over two runs"
    _note(figure, note)
    return figure


def plot_dots(
    groups: Sequence[Group],
    metric: str,
    style: Mapping[str, Mapping[str, Any]],
    task: str,
    baseline: str | None = None,
) -> Figure:
    """Plot every done run as a dot, and below the dots the mean of the group with an interval.

    The first group is on top. A dashed line marks the mean of the baseline.
    """
    figure = Figure(figsize=(8.5, 1.9 + 0.46 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    generator = numpy.random.default_rng(0)
    for row, group in enumerate(groups):
        values = group.done[metric].to_numpy(float) if len(group.done) else numpy.array([])
        values = values[numpy.isfinite(values)]
        group_style = style[group.label]
        if group.label == baseline and len(values):
            axes.axvline(mean(values), color="0.55", linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
        heights = row - 0.16 + generator.uniform(-0.12, 0.12, len(values))
        axes.scatter(
            values,
            heights,
            s=26,
            color=group_style["color"],
            marker=group_style["marker"],
            alpha=0.55,
            linewidths=0,
        )
        if len(values) > 1:
            low, high = mean_interval(values)
            axes.plot([low, high], [row + 0.2] * 2, color=group_style["color"], linewidth=2.2)
            axes.plot(
                [mean(values)],
                [row + 0.2],
                color=group_style["color"],
                marker=group_style["marker"],
                markersize=7.5,
                markeredgecolor="white",
            )
    axes.set_yticks(range(len(groups)), [_row_label(group) for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel(metrics.label(metric), fontsize=TEXT["axis"])
    _decorate(axes, f"{task}: {metrics.label(metric)}")
    axes.grid(axis="y", visible=False)
    note = "small: one run; large, below: mean and its 95% bootstrap interval"
    if baseline is not None:
        note += f"; dashed: mean of {baseline}"
    _note(figure, note)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Save a figure as PNG and SVG; equal figures give equal bytes."""
    written = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        with matplotlib.rc_context({"svg.hashsalt": "cellzoo", "svg.fonttype": "none"}):
            written.append(
                write_whole(
                    path.with_name(path.name + suffix),
                    lambda target: figure.savefig(target, dpi=150, metadata=metadata),  # noqa: B023
                )
            )
    return written


def _on_common_steps(
    group: Group, curves: pandas.DataFrame, metric: str
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the values of the done runs, (runs, steps), at their common steps, and the steps."""
    of_group = curves[curves["directory"].isin(group.done["directory"])]
    runs = [run for _, run in of_group.groupby("directory", sort=True)]
    if not runs:
        return numpy.empty((0, 0)), numpy.empty(0)
    first = max(run["step"].min() for run in runs)
    last = min(run["step"].max() for run in runs)
    steps = numpy.unique(numpy.concatenate([run["step"].to_numpy(float) for run in runs]))
    steps = steps[(steps >= first) & (steps <= last)]
    if len(steps) > POINTS:
        steps = steps[numpy.linspace(0, len(steps) - 1, POINTS).round().astype(int)]
    values = [numpy.interp(steps, run["step"], run[metric]) for run in runs]
    return numpy.stack(values), steps


def _band(values: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray, str]:
    """Return the lower and upper bounds of a band, and its kind."""
    if len(values) >= 3:
        return *mean_intervals(values, resamples=1999), "interval"
    return values.min(axis=0), values.max(axis=0), "range" if len(values) == 2 else "none"


def _row_label(group: Group) -> str:
    broken = len(group.runs) - len(group.done)
    return f"{group.label} (n = {len(group.done)}{f', {broken} broken' if broken else ''})"


def _decorate(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=TEXT["title"], loc="left")
    axes.tick_params(labelsize=TEXT["tick"])
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _note(figure: Figure, text: str) -> None:
    # The layout reserves room for a supxlabel.
    figure.supxlabel(text, fontsize=TEXT["note"], color="0.35")
