"""A plot of the training step's time relative to torch.nn.LSTM: one panel for each shape."""

from collections.abc import Mapping
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from cellzoo.bench.peers import PACKAGES, TORCH_NN
from cellzoo.bench.results import MEASURED, by_shape, overall
from cellzoo.bench.shape import Shape
from cellzoo.compare.plots import COLOURS, TEXT
from cellzoo.engines import ENGINES

LINE = 0.17  # inches; each contender has a line of its own, so that no two overlap
MANY = 40  # lines; above this number all panels share one row, for reading across

Heights = dict[str, dict[str, float]]


def plot(rows: pandas.DataFrame) -> Figure | None:
    """Return the figure, or None if the reference, torch.nn.LSTM, was not measured."""
    rows = rows[(rows["status"] == MEASURED) & rows["ratio"].notna()]
    if rows.empty:
        return None
    shapes = by_shape(rows)
    styles = _styles(rows)
    heights = _heights(rows, list(styles))
    lines = sum(map(len, heights.values())) + len(heights)
    across = min(len(shapes), 6 if lines > MANY else 3)
    down = -(-len(shapes) // across)
    wide = max(2.2 + across * (2.9 if across <= 3 else 2.3), 7.5)
    figure = Figure(figsize=(wide, 1.4 + down * (LINE * lines + 0.6)), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for number, axes in enumerate(panels):
        axes.set_visible(number < len(shapes))
        if number < len(shapes):
            _panel(axes, *shapes[number], styles, heights)
            axes.tick_params(labelbottom=number + across >= len(shapes))
    labels = [Line2D([], [], linestyle="", label=name, **style) for name, style in styles.items()]
    figure.legend(
        handles=labels,
        loc="outside upper left",
        ncols=int(wide / 1.8),
        frameon=False,
        fontsize=TEXT["tick"],
        handletextpad=0.2,
    )
    figure.supxlabel(
        "training step, time over torch.nn.LSTM's at the same shape\n"
        "(left is faster; median over the rounds, and quartiles)",
        fontsize=TEXT["tick"],
    )
    return figure


def _styles(rows: pandas.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the colour and marker of each engine or package, the same in every plot."""
    *colours, black = COLOURS
    styles: dict[str, dict[str, Any]] = {
        name: {"color": colours[number % len(colours)], "marker": "o" if name in ENGINES else "D"}
        for number, name in enumerate([*ENGINES, *PACKAGES])
    }
    styles[TORCH_NN] = {"color": black, "marker": "s"}
    present = set(rows["engine"])
    order = [*ENGINES, TORCH_NN, *PACKAGES]
    return {name: styles[name] | {"markersize": 5} for name in order if name in present}


def _panel(
    axes: Axes,
    shape: Shape,
    rows: pandas.DataFrame,
    styles: Mapping[str, Mapping[str, Any]],
    heights: Heights,
) -> None:
    """Draw one shape: for each contender a marker at the ratio and a line between quartiles."""
    axes.set_xscale("log")
    axes.axvline(1, color="0.4", linewidth=1)
    for number, lines in enumerate(heights.values()):
        if number % 2:
            top, bottom = min(lines.values()) - 1, max(lines.values()) + 1
            axes.axhspan(top, bottom, color="0.955", zorder=0, linewidth=0)
    for _, row in rows.iterrows():
        style = styles[row["engine"]]
        height = heights[row["cell"]][row["engine"]]
        axes.plot([row["ratio_low"], row["ratio_high"]], [height] * 2, color=style["color"])
        axes.plot(row["ratio"], height, **style)
    middles = [sum(lines.values()) / len(lines) for lines in heights.values()]
    axes.set_yticks(middles, list(heights), fontsize=TEXT["tick"])
    axes.set_ylim(max(max(lines.values()) for lines in heights.values()) + 1, -1)
    axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.tick_params(labelsize=TEXT["note"])
    axes.tick_params(axis="y", length=0, labelsize=TEXT["tick"])
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(str(shape), fontsize=TEXT["note"], loc="left")


def _heights(rows: pandas.DataFrame, engines: list[str]) -> Heights:
    """Return the line of each contender by cell and engine; the fastest cells are on top."""
    means = overall(rows)
    heights: Heights = {}
    line = 0.0
    for cell in dict.fromkeys(means["cell"]):
        measured = set(means.loc[means["cell"] == cell, "engine"])
        heights[cell] = {}
        for engine in engines:
            if engine in measured:
                heights[cell][engine] = line
                line += 1
        line += 1  # a free line between cells
    return heights
