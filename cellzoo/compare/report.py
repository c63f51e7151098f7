"""The comparison of runs: from run directories to tables, plots and files."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas
from rich.console import Console

from cellzoo.compare import metrics, plots
from cellzoo.compare.baseline import baseline_values
from cellzoo.compare.errors import CompareError, unknown
from cellzoo.compare.groups import Group, group_runs, one_monitor, require, split_tasks
from cellzoo.compare.keys import resolve
from cellzoo.compare.read import read_curves, read_runs
from cellzoo.compare.select import select_runs
from cellzoo.compare.table import Table, build_table, print_table
from cellzoo.run.result import UNFINISHED
from cellzoo.system.files import write_whole

#: The columns that `--metric` accepts besides metrics.
METRIC_COLUMNS = ("parameters", "seconds", "steps", "steps_per_second")

ReadCurves = Callable[[pandas.DataFrame, str], pandas.DataFrame]


@dataclass(frozen=True)
class Comparison:
    """The outcome of a comparison: all runs, a table for each task, and the written files."""

    runs: pandas.DataFrame
    tables: tuple[Table, ...]
    paths: tuple[Path, ...]


def compare(
    directory: str | Path | None = None,
    by: Sequence[str] = ("cell",),
    metric: str | None = None,
    baseline: str | None = None,
    select: str | None = None,
    out: str | Path | None = None,
    *,
    mode: str | None = None,
    wandb: str | None = None,
    group: str | None = None,
    draw: bool = True,
    console: Console | None = None,
) -> Comparison:
    """Compare runs, print a table for each task, and write tables and plots.

    Args:
        directory: the directory of the runs.
        by: config keys; runs with equal values form a group.
        metric: the metric to compare; by default the test metric of the monitored metric.
        baseline: a group (`lstm` or `cell=lstm`) to compare every group with, over paired runs.
        select: a config key; each group keeps its best value by validation.
        out: the directory of the files; by default `<directory>/compare`.
        mode: `max` or `min`, for a metric whose name does not determine the better direction.
        wandb: a W&B project, entity/project, instead of a directory.
        group: a W&B group; only its runs are read.
        draw: whether to draw plots, the slow part.
        console: the console of the tables; by default the terminal.

    Raises:
        CompareError: The comparison is impossible; the message names the file or key.

    Examples:
        >>> import io, json, tempfile, rich.console
        >>> folder = tempfile.TemporaryDirectory()
        >>> for cell, accuracy in (("gru", 0.75), ("lstm", 0.5)):
        ...     run = Path(folder.name) / cell
        ...     run.mkdir()
        ...     result = {"status": "done", "cell": cell, "init": "torch", "task": "digits",
        ...               "hidden_size": 8, "seed": 0, "parameters": 100, "seconds": 1.0,
        ...               "monitor": "val/accuracy", "mode": "max",
        ...               "metrics": {"val/accuracy": accuracy, "test/accuracy": accuracy}}
        ...     _ = (run / "result.json").write_text(json.dumps(result))
        ...     _ = (run / "config.yaml").write_text(f"cell: {{name: {cell}}}")
        >>> silent = rich.console.Console(file=io.StringIO())
        >>> comparison = compare(folder.name, by=["cell"], draw=False, console=silent)
        >>> comparison.tables[0].rows[["cell", "mean"]].values.tolist()
        [['gru', 0.75], ['lstm', 0.5]]
        >>> folder.cleanup()
    """
    if (directory is None) == (wandb is None):
        raise CompareError("give a directory of runs, or --wandb entity/project")
    curves_of: ReadCurves
    if wandb is not None:
        from cellzoo.compare.wandb_runs import read_wandb_curves, read_wandb_runs

        runs, curves_of = read_wandb_runs(wandb, group), read_wandb_curves
        out = Path("compare") if out is None else Path(out)
    else:
        assert directory is not None
        runs, curves_of = read_runs(directory), read_curves
        out = Path(directory) / "compare" if out is None else Path(out)

    if not by:
        raise CompareError("--by needs at least one config key, such as cell")
    by = tuple(dict.fromkeys(resolve(runs, key) for key in by))
    select = None if select is None else resolve(runs, select)
    if not (runs["status"] == "done").any():
        counts = ", ".join(f"{n} {name}" for name, n in runs["status"].value_counts().items())
        raise CompareError(f"no run is done: {counts}")

    style = plots.styles([g.label for g in group_runs(runs, by)])
    console = console or wide_console()
    tables: list[Table] = []
    drawn: list[Path] = []
    tasks = split_tasks(runs, besides=(*by, select) if select else by)
    for task, of_task in tasks.items():
        finished = of_task[~of_task["status"].isin(UNFINISHED)]
        unfinished = len(of_task) - len(finished)
        if not (finished["status"] == "done").any():
            console.print(f"{task}: none of {len(of_task)} runs is done", markup=False)
            continue
        selection = None if select is None else select_runs(finished, by, select)
        kept = finished if selection is None else selection.runs
        monitor, monitor_mode = one_monitor(finished, task)
        compared, better = _metric(kept, metric, mode, monitor, monitor_mode)
        table = build_table(task, kept, by, compared, better, baseline, selection, unfinished)
        tables.append(table)
        print_table(table, console)
        if draw:
            suffix = f"-{_file_name(task)}" if len(tasks) > 1 else ""
            groups = _in_order(group_runs(kept, by), table)
            dashed = _baseline_label(baseline, groups, by)
            figure = plots.plot_dots(groups, compared, style, task, dashed)
            drawn += plots.save(figure, out / f"dots{suffix}")
            curve_metric = _validation(kept, compared, monitor)
            if curve_metric is not None:
                try:
                    curves = curves_of(kept[kept["status"] == "done"], curve_metric)
                except CompareError as error:  # a table is useful without curves
                    console.print(f"no curves: {error}", markup=False, soft_wrap=True)
                    continue
                curve_mode = metrics.direction(curve_metric, monitor, monitor_mode, better)
                figure = plots.plot_curves(groups, curves, curve_metric, curve_mode, style, task)
                drawn += plots.save(figure, out / f"curves{suffix}")

    all_rows = pandas.concat([table.rows for table in tables], ignore_index=True)
    paths = [_write_csv(runs, out / "runs.csv"), _write_csv(all_rows, out / "table.csv"), *drawn]
    for path in paths:
        console.print(str(path), soft_wrap=True, markup=False, highlight=False)
    return Comparison(runs, tuple(tables), tuple(paths))


def wide_console() -> Console:
    """Return a console of the terminal's width, or 200 columns for a pipe or a file."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _metric(
    runs: pandas.DataFrame,
    metric: str | None,
    mode: str | None,
    monitor: str | None,
    monitor_mode: str | None,
) -> tuple[str, str]:
    """Return the metric to compare, which every done run has, and the better direction."""
    if metric is None:
        if monitor is None:
            raise CompareError("no run has a monitored metric; give --metric NAME")
        metric = metrics.default_metric(monitor)
    else:
        known = [*METRIC_COLUMNS, *(name for name in map(str, runs) if "/" in name)]
        if metric not in known:
            raise unknown("metric", metric, known)
    require(runs, metric)
    return metric, mode or metrics.direction(metric, monitor, monitor_mode)


def _validation(runs: pandas.DataFrame, metric: str, monitor: str | None) -> str | None:
    """Return the metric of the curves: the compared one for validation, or the monitored one."""
    if not (runs["status"] == "done").any():
        return None
    sibling = f"val/{metric.partition('/')[2]}"
    return sibling if "/" in metric and sibling in runs and runs[sibling].notna().any() else monitor


def _in_order(groups: Sequence[Group], table: Table) -> list[Group]:
    """Return the groups in the order of the table."""
    known = {group.key: group for group in groups}
    return [known[key] for key in zip(*(table.rows[name] for name in table.by), strict=True)]


def _baseline_label(baseline: str | None, groups: Sequence[Group], by: Sequence[str]) -> str | None:
    """Return the label of the dashed line: the baseline, unless it is more than one group."""
    if baseline is None:
        return None
    fixed = baseline_values(baseline, groups, by)
    matching = [
        group.label
        for group in groups
        if all(fixed.get(name, own) == own for name, own in zip(by, group.key, strict=True))
    ]
    return matching[0] if len(matching) == 1 else None


def _write_csv(frame: pandas.DataFrame, path: Path) -> Path:
    return write_whole(path, lambda target: frame.to_csv(target, index=False))


def _file_name(task: str) -> str:
    return re.sub(r"[^\w.=]+", "-", task.replace(" = ", "=")).strip("-")
