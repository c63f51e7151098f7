"""Whose a run's directory is, and what an earlier attempt left in it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cellzoo.config.compose import flatten, identity
from cellzoo.run.checkpoints import KEY
from cellzoo.run.directory import (
    ENDED,
    RunError,
    Status,
    keep_sources,
    read_config,
    read_result,
    reserve_space,
    status,
)
from cellzoo.run.loggers import read_rows

BEGINNING = "the beginning"


@dataclass(frozen=True)
class Attempt:
    """An attempt at a run, as it begins.

    Attributes:
        checkpoint: last.ckpt of the attempts before, to go on from; None: from the beginning.
        kept: what last.ckpt says of the run: `rows` of metrics.csv, `seconds` of work.
        earlier: result.json as the attempts before left it; empty for the first.
        attempts: all attempts, this one included: when each started, from where, how it ended.
        wandb: the id of the W&B run, the same for all attempts.
    """

    checkpoint: Path | None
    kept: Mapping[str, Any]
    earlier: Mapping[str, Any]
    attempts: list[dict[str, Any]]
    wandb: str


def begin(directory: Path, config: Mapping[str, Any]) -> Attempt:
    """Begin an attempt at a run, whose directory this process holds.

    It goes on from the last checkpoint, whatever ended the attempt before. A checkpoint that
    cannot be read is moved away with all that came of it, and the run starts over.

    Raises:
        RunError: the directory holds another run, a sweep, other files, or this run done or
            diverged.
    """
    stands, earlier = check_directory(directory, config), read_result(directory) or {}
    if earlier.get("status") in ENDED:
        raise RunError(f"{directory} holds this run, {stands}: choose another name=, or remove it")
    attempts = [dict(each) for each in earlier.get("attempts", [])]
    if attempts and attempts[-1]["ended"] is None:
        attempts[-1]["ended"] = "killed"
    checkpoint = directory / "checkpoints" / "last.ckpt"
    kept: dict[str, Any] = {}
    start = BEGINNING
    try:
        if checkpoint.exists():
            kept = _read(checkpoint)
            start = f"step {kept['step']}"
    except Exception as error:  # torch raises many kinds for a file that is none
        said = str(error).strip().splitlines() or [type(error).__name__]
        start = f"{BEGINNING}: the checkpoint is of no use ({said[0]})"
        _move_away(directory, len(attempts))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    attempts.append({"started": now, "from": start, "ended": None})
    keep_sources(directory, config)
    reserve_space(directory)
    run_id = earlier.get("wandb") or secrets.token_hex(4)
    return Attempt(checkpoint if kept else None, kept, earlier, attempts, run_id)


def join(directory: Path) -> Attempt:
    """The attempt that rank 0 began, for the other ranks."""
    checkpoint = directory / "checkpoints" / "last.ckpt"
    earlier = read_result(directory) or {}
    return Attempt(checkpoint if checkpoint.exists() else None, {}, earlier, [], "")


def _read(checkpoint: Path) -> dict[str, Any]:
    """What last.ckpt says of the run, after all that it relies on was found there."""
    loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    kept = {"step": loaded["global_step"], **loaded[KEY]}
    directory = checkpoint.parent.parent
    if kept["rows"] > len(read_rows(directory / "metrics.csv")):
        raise RunError("metrics.csv has lost rows")
    if loaded["callbacks"]["Best"]["metrics"]:
        torch.load(checkpoint.with_name("best.ckpt"), map_location="cpu", weights_only=True)
    return kept


def _move_away(directory: Path, number: int) -> None:
    """Keep what attempt `number` left in attempts/, out of the way."""
    target = directory / "attempts" / str(number)
    target.mkdir(parents=True, exist_ok=True)
    for name in ("checkpoints", "metrics.csv", "train.log", "wandb"):
        if (directory / name).exists():
            shutil.move(directory / name, target / name)


def check_directory(directory: Path, config: Mapping[str, Any]) -> Status:
    """How the run that this config describes stands in its directory.

    Raises:
        RunError: the directory holds another run (another config, seed or plugin's code), a
            sweep, or files that are no run's.
    """
    visible = [path for path in directory.glob("*") if not path.name.startswith(".")]
    if not visible:
        return status(directory)
    if not (directory / "config.yaml").exists():
        raise RunError(f"{directory} holds something else than a run: choose another name=")
    old = read_config(directory)
    if (identity(old), old["seed"]) != (identity(config), config["seed"]):
        raise RunError(
            f"{directory} holds another run ({_difference(old, config)}): choose another name=, "
            "or remove it"
        )
    return status(directory)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In what two runs' configs differ, in a few words."""
    before, after = flatten(old), flatten(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    for key in keys:
        if key.startswith("plugins."):
            return f"the code of its {key.split('.')[1]} was edited"
    said = [f"{key}={before.get(key)}, not {after.get(key)}" for key in keys if key != "name"]
    return "; ".join(said[:3])
