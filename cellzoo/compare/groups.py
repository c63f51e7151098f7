"""Runs put together: first by task, then by what is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas

from cellzoo.compare.errors import CompareError
from cellzoo.compare.keys import is_within, row_keys, varying_keys


@dataclass(frozen=True)
class Group:
    """The runs that share the values `key` of the compared config keys."""

    key: tuple[str, ...]
    label: str
    runs: pandas.DataFrame

    @property
    def done(self) -> pandas.DataFrame:
        """The runs that reached their end: the only ones with test metrics."""
        return self.runs[self.runs["status"] == "done"]


def group_runs(runs: pandas.DataFrame, by: Sequence[str]) -> list[Group]:
    """The groups of `runs` by the config keys `by`, in the order of their values."""
    positions: dict[tuple[str, ...], list[int]] = {}
    for position, key in enumerate(row_keys(runs, by)):
        positions.setdefault(key, []).append(position)
    return [
        Group(key, _label(by, key, runs), runs.iloc[positions[key]])
        for key in sorted(positions, key=natural)
    ]


def split_tasks(runs: pandas.DataFrame, besides: Sequence[str] = ()) -> dict[str, pandas.DataFrame]:
    """The runs of each task by its label; a task with other options is another task.

    Options named in `besides` are compared or selected on purpose, a seed is no option.
    """
    tasks = {}
    for named in group_runs(runs, ["task"]):
        options = [
            key
            for key in varying_keys([named.runs], besides)
            if key.startswith("task.")
            and key not in ("task.seed", "task.batch_size")
            and not is_within(key, besides)
        ]
        for group in group_runs(named.runs, ["task", *options]):
            tasks[group.label] = group.runs
    return tasks


def one_monitor(runs: pandas.DataFrame, task: str) -> tuple[str | None, str | None]:
    """The monitored metric of a task's runs and its direction; two of them raise."""
    monitored = runs[["monitor", "mode"]].dropna().drop_duplicates()
    if len(monitored) > 1:
        names = ", ".join(f"{row.monitor} ({row.mode})" for row in monitored.itertuples())
        raise CompareError(f"runs of task {task} monitor different metrics: {names}")
    return tuple(monitored.iloc[0]) if len(monitored) else (None, None)


def require(runs: pandas.DataFrame, metric: str) -> None:
    """Raise for a done run without the metric, naming its directory."""
    done = runs[runs["status"] == "done"]
    lacking = done[done[metric].isna()] if metric in done else done
    if len(lacking):
        others = sorted(name for name in done.columns if "/" in name and done[name].notna().any())
        raise CompareError(
            f"{lacking['directory'].iloc[0]}: a done run without {metric}"
            + (f" ({len(lacking)} such runs)" if len(lacking) > 1 else "")
            + f"; the runs know {', '.join(others)}"
        )


def natural(key: tuple[str, ...]) -> list[tuple[int, float, str]]:
    """A sorting key that puts 8 before 16."""
    return [_number_first(part) for part in key]


def _number_first(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _label(by: Sequence[str], key: tuple[str, ...], runs: pandas.DataFrame) -> str:
    """Names speak for themselves (`lstm`), other values need their key (`hidden_size = 32`)."""
    parts = [
        value
        if f"{name}.name" in runs.columns or name in ("cell", "init", "task")
        else f"{name} = {value}"
        for name, value in zip(by, key, strict=True)
    ]
    return ", ".join(parts) or "all runs"
