"""Reading run directories into one table with a row for each run."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas
import yaml

from cellzoo.compare.errors import CompareError, unknown
from cellzoo.compare.keys import RESULT_COLUMNS, columns_of
from cellzoo.run.result import Status

CODE = "plugins.cell.sha256"  # the hash of a plugin's cell
ALWAYS = ("status", "cell", "init", "task", "hidden_size", "seed")
WHEN_DONE = ("parameters", "seconds", "metrics", "monitor", "mode")


def read_runs(directory: str | Path) -> pandas.DataFrame:
    """Read every run below a directory.

    Returns:
        One row for each run. The columns are those of the result (`directory`, `status`,
        `parameters`, `seconds`, …), every metric (`val/accuracy`, …) and every config key,
        flattened with dots (`optimizer.lr`).

    Raises:
        CompareError: A file cannot be read; the message names the file.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CompareError(f"{directory} is not a directory; train into it with `cellzoo sweep`")
    rows = [_read_run(run) for run in _run_directories(directory)]
    if not rows:
        raise CompareError(
            f"no result.json below {directory}; give the directory of a run or sweep, "
            "such as runs/<name> after `cellzoo sweep name=<name>`"
        )
    return frame_of_runs(rows)


def _by_version(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rename a cell whose code changed between runs to `cell@<hash of the code>`.

    Runs of two versions are not runs of one cell.
    """
    versions: dict[str, set[Any]] = {}
    for row in rows:
        versions.setdefault(row["cell"], set()).add(row.get(CODE))
    return [
        {**row, "cell": f"{row['cell']}@{str(row.get(CODE))[:6]}"}
        if len(versions[row["cell"]]) > 1
        else row
        for row in rows
    ]


def read_curves(runs: pandas.DataFrame | Iterable[str | Path], metric: str) -> pandas.DataFrame:
    """Read a metric's curve in each run; the columns are `directory`, `step` and the metric."""
    directories = runs["directory"] if isinstance(runs, pandas.DataFrame) else runs
    curves = [_read_curve(Path(directory), metric) for directory in directories]
    if not curves:
        return pandas.DataFrame(columns=["directory", "step", metric])
    return pandas.concat(curves, ignore_index=True)


def frame_of_runs(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    """Return rows with different keys as one frame; the columns that identify a run come first."""
    rows = _by_version(rows)
    first = ["directory", "status", "reason", "cell", "init", "task", "hidden_size", "seed"]
    first += [column for column in RESULT_COLUMNS if column not in first]
    rest = dict.fromkeys(key for row in rows for key in row if key not in first)
    metrics = sorted(key for key in rest if "/" in key)
    config = [key for key in rest if "/" not in key]
    return pandas.DataFrame(rows, columns=[*first, *metrics, *config])


def _run_directories(directory: Path) -> list[Path]:
    """Return the directories below `directory` with a result, sorted."""
    directories = []
    for path, folders, files in os.walk(directory):
        # A superseded attempt of a run is not a run.
        folders[:] = [folder for folder in folders if folder != "attempts"]
        if "result.json" in files:
            directories.append(Path(path))
    return sorted(directories)


def _read_run(directory: Path) -> dict[str, Any]:
    path = directory / "result.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompareError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(result, dict):
        raise CompareError(f"{path} does not hold a mapping")
    check_status(result.get("status"), str(path))
    required = (*ALWAYS, *WHEN_DONE) if result["status"] == "done" else ALWAYS
    missing = [key for key in required if result.get(key) is None]
    if missing:
        raise CompareError(f"{path} lacks {', '.join(missing)}")
    if result.get("mode") not in ("min", "max", None):
        raise CompareError(f"{path}: mode {result['mode']!r} is neither 'min' nor 'max'")

    config = columns_of(_read_config(directory / "config.yaml"))
    config["world_size"] = result.get("world_size", result.get("ranks", 1))  # ranks: of 0.1.0
    row = {key: value for key, value in config.items() if key not in RESULT_COLUMNS}
    row |= {key: result.get(key) for key in (*RESULT_COLUMNS, *ALWAYS)}
    row["directory"] = str(directory)
    return row | _metrics(result.get("metrics"), path)


def check_status(status: Any, place: str) -> None:
    """Raise CompareError if the status of a run is unknown."""
    known = [str(each) for each in Status if each is not Status.LEFT]
    if status not in known:
        raise CompareError(f"{place}: status {status!r} is none of {', '.join(known)}")


def _metrics(metrics: Any, path: Path) -> dict[str, float]:
    if metrics is None:
        return {}
    if not isinstance(metrics, dict):
        raise CompareError(f"{path}: metrics is not a mapping")
    for name, value in metrics.items():
        if "/" not in name:
            raise CompareError(f"{path}: metric {name!r} has no split, such as 'val/{name}'")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise CompareError(f"{path}: metric {name!r} is not a number: {value!r}")
    return {name: float("nan") if value is None else value for name, value in metrics.items()}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise CompareError(f"{path} is not readable YAML: {reason}") from error
    if not isinstance(config, dict):
        raise CompareError(f"{path} does not hold a mapping")
    return config


def _read_curve(directory: Path, metric: str) -> pandas.DataFrame:
    path = directory / "metrics.csv"
    try:
        table = pandas.read_csv(path)
        for column in ("step", metric):
            if column not in table.columns:
                raise CompareError(f"{path}: {unknown('column', column, table.columns)}")
        curve = table[["step", metric]].apply(pandas.to_numeric).dropna()
    except CompareError:
        raise
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = " ".join(str(error).split())
        raise CompareError(f"{path} is not a readable table: {reason}") from error
    # A resumed run repeats the steps since the checkpoint; the later rows are valid.
    curve = curve.drop_duplicates("step", keep="last").sort_values("step")
    curve.insert(0, "directory", str(directory))
    return curve
