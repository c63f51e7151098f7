"""Groups of runs: first by task, then by the compared keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas

from cellzoo.compare.errors import CompareError
from cellzoo.compare.keys import is_within, row_keys, varying_keys


@dataclass(frozen=True)
class Group:
    """The runs with equal values of the compared config keys.

    Attributes:
        key: the values, as text.
        label: the values, for people.
        runs: the runs, one row each.
    """

    key: tuple[str, ...]
    label: str
    runs: pandas.DataFrame

    @property
    def done(self) -> pandas.DataFrame:
        """Return the runs with the status `done`, the only ones with test metrics."""
        return self.runs[self.runs["status"] == "done"]


def group_runs(runs: pandas.DataFrame, by: Sequence[str]) -> list[Group]:
    """Group runs by the config keys `by`, in the order of the values."""
    positions: dict[tuple[str, ...], list[int]] = {}
    for position, key in enumerate(row_keys(runs, by)):
        positions.setdefault(key, []).append(position)
    return [
        Group(key, _label(by, key, runs), runs.iloc[positions[key]])
        for key in sorted(positions, key=natural)
    ]


def split_tasks(runs: pandas.DataFrame, besides: Sequence[str] = ()) -> dict[str, pandas.DataFrame]:
    """Return the runs of each task by label; a task with other options is another task.

    Options in `besides` are compared or selected on purpose and do not separate tasks. Neither do
    the seed and the batch size.
    """
    tasks = {}
    for same_name in group_runs(runs, ["task"]):
        options = [
            key
            for key in varying_keys([same_name.runs], besides)
            if key.startswith("task.")
            and key not in ("task.seed", "task.batch_size")
            and not is_within(key, besides)
        ]
        for group in group_runs(same_name.runs, ["task", *options]):
            tasks[group.label] = group.runs
    return tasks


def one_monitor(runs: pandas.DataFrame, task: str) -> tuple[str | None, str | None]:
    """Return the monitored metric of a task's runs and the direction.

    Raises:
        CompareError: The runs monitor different metrics.
    """
    monitored = runs[["monitor", "mode"]].dropna().drop_duplicates()
    if len(monitored) > 1:
        names = ", ".join(f"{row.monitor} ({row.mode})" for row in monitored.itertuples())
        raise CompareError(f"runs of task {task} monitor different metrics: {names}")
    return tuple(monitored.iloc[0]) if len(monitored) else (None, None)


def require(runs: pandas.DataFrame, metric: str) -> None:
    """Raise CompareError for a done run without the metric; the message names the directory."""
    done = runs[runs["status"] == "done"]
    incomplete = done[done[metric].isna()] if metric in done else done
    if len(incomplete):
        others = sorted(name for name in done.columns if "/" in name and done[name].notna().any())
        raise CompareError(
            f"{incomplete['directory'].iloc[0]}: a done run without {metric}"
            + (f" ({len(incomplete)} such runs)" if len(incomplete) > 1 else "")
            + f"; the runs have {', '.join(others)}"
        )


def natural(key: tuple[str, ...]) -> list[tuple[int, float, str]]:
    """Return a sorting key that puts 8 before 16 and numbers before text."""

    def order(text: str) -> tuple[int, float, str]:
        try:
            return 0, float(text), text
        except ValueError:
            return 1, 0.0, text

    return [order(part) for part in key]


def _label(by: Sequence[str], key: tuple[str, ...], runs: pandas.DataFrame) -> str:
    """Return a label: a name alone (`lstm`), another value with its key (`hidden_size = 32`)."""
    parts = [
        value
        if f"{name}.name" in runs.columns or name in ("cell", "init", "task")
        else f"{name} = {value}"
        for name, value in zip(by, key, strict=True)
    ]
    return ", ".join(parts) or "all runs"
