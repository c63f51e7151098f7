"""Reading runs and curves from Weights & Biases, in the form of `cellzoo.compare.read`."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas

from cellzoo.compare.errors import CompareError
from cellzoo.compare.keys import RESULT_COLUMNS, columns_of
from cellzoo.compare.read import ALWAYS, WHEN_DONE, check_status, frame_of_runs

#: The status of a run that stopped before it recorded one, by its W&B state.
STATUS_OF_STATE = {"running": "running", "pending": "running", "finished": "done"}
#: The number of points of a curve that W&B returns at most, evenly spaced.
SAMPLES = 2000


def read_wandb_runs(path: str, group: str | None = None) -> pandas.DataFrame:
    """Read the runs of a project, or of one group; `directory` is entity/project/id.

    Args:
        path: entity/project.
        group: a W&B group; None: all runs.

    Raises:
        CompareError: W&B cannot be reached, has no such runs or lacks a field.
    """
    if path.count("/") != 1:
        raise CompareError(f"--wandb {path}: give entity/project")
    with _errors_of(path):
        runs = _api().runs(path, filters={"group": group} if group else {}, lazy=False)
        rows = [_row(run) for run in runs]
    if not rows:
        place = f"{path}, group {group}" if group else path
        raise CompareError(f"no runs in W&B under {place}")
    return frame_of_runs(rows)


def read_wandb_curves(runs: pandas.DataFrame, metric: str) -> pandas.DataFrame:
    """Read a metric's curve in each run; the columns are `directory`, `step` and the metric."""
    api = _api()
    curves = []
    for directory in runs["directory"]:
        with _errors_of(directory):
            rows = _history(api.run(directory), metric)
        curve = pandas.DataFrame(rows, columns=["step", metric]).astype(float)
        curve = curve.drop_duplicates("step", keep="last").sort_values("step")
        curve.insert(0, "directory", directory)
        curves.append(curve)
    if not curves:
        return pandas.DataFrame(columns=["directory", "step", metric])
    return pandas.concat(curves, ignore_index=True)


def _api() -> Any:
    try:
        import wandb

        return wandb.Api()
    except Exception as error:  # no key, no server and no package raise unrelated classes
        raise CompareError(f"W&B cannot be reached: {_one_line(error)}") from error


@contextmanager
def _errors_of(path: str) -> Iterator[None]:
    """Raise CompareError with the path for any exception: the client has no common class."""
    try:
        yield
    except CompareError:
        raise
    except Exception as error:
        raise CompareError(f"W&B {path}: {_one_line(error)}") from error


def _row(run: Any) -> dict[str, Any]:
    place = "/".join(run.path)
    config = columns_of(run.config)
    status = config.get("status") or STATUS_OF_STATE.get(run.state, "failed")
    check_status(status, f"W&B run {place}")
    summary = run.summary_metrics
    names = ("seconds", "parameters", "steps", "steps_per_second", "reason")
    row = config | {name: summary[name] for name in names if summary.get(name) is not None}
    row |= {"directory": place, "status": status}
    row |= {name: row.get(name) for name in RESULT_COLUMNS} | _metrics(summary)
    required = (*ALWAYS, *WHEN_DONE) if status == "done" else ALWAYS
    missing = [name for name in required if name != "metrics" and row.get(name) is None]
    if missing:
        raise CompareError(f"W&B run {place} lacks {', '.join(missing)} in its config")
    return row


def _metrics(summary: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of the best checkpoint.

    `best/val/accuracy` has precedence over `val/accuracy`. A summary metric is a mapping.
    """
    metrics: dict[str, float] = {}
    # Keys with best/ come last and overwrite the others.
    for key in sorted(summary, key=lambda name: name.startswith("best/")):
        name, value = key.removeprefix("best/"), summary[key]
        if "/" not in name or name.startswith(("trainer/", "_", "system/")):
            continue
        if isinstance(value, dict):
            value = next((value[k] for k in ("best", "max", "min", "last") if k in value), None)
        if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
            value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            metrics[name] = value
    return metrics


def _history(run: Any, metric: str) -> list[tuple[float, float]]:
    """Return the (step, value) pairs of a metric."""
    for step in ("trainer/global_step", "_step"):  # Lightning's logger writes the first
        rows = run.history(samples=SAMPLES, keys=[metric], x_axis=step, pandas=False)
        points = [(row[step], row[metric]) for row in rows if _is_number(row.get(metric))]
        if points:
            return points
    return []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
