"""Whose a run's directory is, and what an earlier attempt left in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellzoo.config import flatten, identity
from cellzoo.runs import RunError, Status, read_config, status


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
