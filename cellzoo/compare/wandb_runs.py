"""Runs and curves from Weights & Biases, in the form in which `read` gives those on disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas

from cellzoo.compare.errors import CompareError
from cellzoo.compare.keys import RESULT_COLUMNS, columns_of
from cellzoo.compare.read import ALWAYS, WHEN_DONE, check_status, frame_of_runs

#: For runs that stopped before they could record a status.
STATUS_OF_STATE = {"running": "running", "pending": "running", "finished": "done"}
#: W&B returns at most so many points of a curve, spread evenly.
SAMPLES = 2000


def read_wandb_runs(path: str, group: str | None = None) -> pandas.DataFrame:
    """The runs of `entity/project`, of one group if given; `directory` is entity/project/id."""
    if path.count("/") != 1:
        raise CompareError(f"--wandb {path}: give entity/project")
    with _saying(path):
        found = _api().runs(path, filters={"group": group} if group else {}, lazy=False)
        rows = [_row(run) for run in found]
    if not rows:
        where = f"{path}, group {group}" if group else path
        raise CompareError(f"no runs in W&B under {where}")
    return frame_of_runs(rows)


def read_wandb_curves(runs: pandas.DataFrame, metric: str) -> pandas.DataFrame:
    """The course of `metric` in each run: columns `directory`, `step`, and the metric."""
    api = _api()
    curves = []
    for directory in runs["directory"]:
        with _saying(directory):
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
    except Exception as error:  # no key, no server, no package: each with a class of its own
        raise CompareError(f"W&B is out of reach: {_one_line(error)}") from error


@contextmanager
def _saying(path: str) -> Iterator[None]:
    """Name the place whatever the client raises; it has no common class for its errors."""
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
    """The metrics of the best checkpoint: `best/val/accuracy` before `val/accuracy`, which is
    a mapping where W&B was told to summarise it."""
    metrics: dict[str, float] = {}
    # Keys with best/ come last and win.
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
