"""The attempts at a run: which run a directory holds, and where the next attempt resumes."""

import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cellzoo.config.identity import flatten, identity
from cellzoo.config.schema import RunConfig
from cellzoo.run.checkpoints import KEY
from cellzoo.run.directory import (
    RunError,
    keep_sources,
    read_config,
    read_result,
    reserve_space,
    status,
)
from cellzoo.run.loggers import read_rows
from cellzoo.run.result import ENDED, AttemptRecord, RunResult, Status

BEGINNING = "the beginning"


@dataclass(frozen=True)
class Progress:
    """The progress that last.ckpt records: `rows` of metrics.csv, `seconds` of work, `step`."""

    rows: int = 0
    seconds: float = 0.0
    step: int = 0


@dataclass(frozen=True)
class Attempt:
    """An attempt at a run, as it begins.

    Attributes:
        checkpoint: last.ckpt, to resume from; None: start from the beginning.
        progress: recorded in the checkpoint.
        earlier: the result of the attempts before; None for the first one.
        records: all attempts, this one included.
        wandb: the id of the W&B run, the same for all attempts.
    """

    checkpoint: Path | None
    progress: Progress
    earlier: RunResult | None
    records: list[AttemptRecord]
    wandb: str


def begin(directory: Path, config: RunConfig) -> Attempt:
    """Begin an attempt at a run, whose lock this process holds.

    It resumes from the last checkpoint, however the attempt before ended. A checkpoint that cannot
    be read is moved to attempts/ with everything that was derived from it, and the run restarts.

    Raises:
        RunError: the directory holds another run, a sweep, other files, or this run finished.
    """
    current, earlier = check_directory(directory, config), read_result(directory)
    if earlier is not None and earlier.status in ENDED:
        raise RunError(f"{directory} holds this run, {current}: choose another name=, or remove it")
    records = list(earlier.attempts) if earlier else []
    if records and records[-1].ended is None:
        records[-1].ended = "killed"
    checkpoint = directory / "checkpoints" / "last.ckpt"
    progress = None
    start = BEGINNING
    try:
        if checkpoint.exists():
            progress = _read(checkpoint)
            start = f"step {progress.step}"
    except Exception as error:  # torch raises many types for a damaged file
        message = str(error).strip().splitlines() or [type(error).__name__]
        start = f"{BEGINNING}: the checkpoint is of no use ({message[0]})"
        _move_away(directory, len(records))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    records.append(AttemptRecord(now, start))
    keep_sources(directory, config)
    reserve_space(directory)
    run_id = (earlier and earlier.wandb) or secrets.token_hex(4)
    resumed = checkpoint if progress else None
    return Attempt(resumed, progress or Progress(), earlier, records, run_id)


def join(directory: Path) -> Attempt:
    """Return the attempt that rank 0 began, for the other ranks."""
    checkpoint = directory / "checkpoints" / "last.ckpt"
    resumed = checkpoint if checkpoint.exists() else None
    return Attempt(resumed, Progress(), read_result(directory), [], "")


def _read(checkpoint: Path) -> Progress:
    """Return the progress in last.ckpt, after checking every file that resuming needs."""
    loaded: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    kept = loaded[KEY]
    progress = Progress(kept["rows"], kept["seconds"], loaded["global_step"])
    directory = checkpoint.parent.parent
    if progress.rows > len(read_rows(directory / "metrics.csv")):
        raise RunError("metrics.csv has lost rows")
    if loaded["callbacks"]["Best"]["metrics"]:
        torch.load(checkpoint.with_name("best.ckpt"), map_location="cpu", weights_only=True)
    return progress


def _move_away(directory: Path, number: int) -> None:
    """Move the files of attempt `number` to attempts/."""
    target = directory / "attempts" / str(number)
    target.mkdir(parents=True, exist_ok=True)
    for name in ("checkpoints", "metrics.csv", "train.log", "wandb"):
        if (directory / name).exists():
            shutil.move(directory / name, target / name)


def check_directory(directory: Path, config: RunConfig) -> Status:
    """Return the status of the run with this config in its directory.

    Raises:
        RunError: the directory holds another run (another config, seed or plugin's code), a
            sweep, or files of something else.
    """
    visible = [path for path in directory.glob("*") if not path.name.startswith(".")]
    if not visible:
        return status(directory)
    if not (directory / "config.yaml").exists():
        raise RunError(f"{directory} holds something else than a run: choose another name=")
    old = read_config(directory)
    if (identity(old), old.seed) != (identity(config), config.seed):
        raise RunError(
            f"{directory} holds another run ({_difference(old, config)}): choose another name=, "
            "or remove it"
        )
    return status(directory)


def _difference(old: RunConfig, new: RunConfig) -> str:
    """Return the first differences of two configs, in a few words."""
    before, after = flatten(old.to_mapping()), flatten(new.to_mapping())
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    for key in keys:
        if key.startswith("plugins."):
            return f"the code of its {key.split('.')[1]} was edited"
    changes = [f"{key}={before.get(key)}, not {after.get(key)}" for key in keys if key != "name"]
    return "; ".join(changes[:3])
