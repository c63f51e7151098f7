"""A run on disk: one directory, in open formats, each file written whole or not at all.

result.json    status, metrics, sizes, versions
config.yaml    the resolved config
metrics.csv    every logged value by step
checkpoints/   best.ckpt (by validation) and last.ckpt
train.log      what the libraries said
wandb/         W&B's file of the run
plugins/       the source of a cell, init or task that is not cellzoo's own
attempts/      earlier attempts that did not finish
.lock          held by the process that runs
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from cellzoo.files import write_whole
from cellzoo.locks import held
from cellzoo.model import SequenceModel
from cellzoo.plugins import only
from cellzoo.rnn import RNN

Status = Literal["left", "running", "interrupted", "done", "diverged", "failed"]
ENDED = ("done", "diverged")  # there is nothing left to do
LOCK = ".lock"  # held by the process that runs


class RunError(RuntimeError):
    """A directory that holds no run, another run, or one that is not done."""


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda target: target.write_text(text))


def write_result(directory: Path, result: Mapping[str, Any]) -> None:
    """Write result.json."""
    _write_text(directory / "result.json", json.dumps(result, indent=2, allow_nan=False) + "\n")


def read_result(directory: Path) -> dict[str, Any] | None:
    """What result.json says; None where there is none.

    Raises:
        RunError: it cannot be read.
    """
    path = directory / "result.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def status(directory: Path) -> Status:
    """How a run stands.

    "left" (nothing began here), "running" (a process holds it now), "interrupted" (a process
    was stopped or killed: the run goes on from its last checkpoint), "done", "diverged" (a loss
    or gradient was not finite: never retried) or "failed" (the reason is in result.json).

    Raises:
        RunError: result.json cannot be read.
    """
    result = read_result(directory)
    recorded = result["status"] if result else "left"
    if recorded not in ENDED and held(directory / LOCK):
        return "running"
    return "interrupted" if recorded == "running" else recorded


def read_config(directory: Path) -> dict[str, Any]:
    """The resolved config of a run.

    Raises:
        RunError: the directory holds none that can be read.
    """
    path = directory / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        runs = [path.parent for path in directory.glob("*/*/config.yaml")]
        below = sorted(str(run.relative_to(directory)) for run in runs)
        hint = f"; below it lie {', '.join(below[:3])}…" if below else ""
        raise RunError(f"{directory} holds no run: there is no config.yaml{hint}") from None
    except (OSError, yaml.YAMLError) as error:
        raise RunError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return config


def begin(directory: Path, config: Mapping[str, Any]) -> int:
    """Make a run's directory: the config, the plugins' source; earlier attempts are kept.

    Returns:
        The attempt's number, from 1 on.

    Raises:
        RunError: it holds a sweep, or files that are no run's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    attempts = directory / "attempts"
    remains = [path for path in directory.iterdir() if path != attempts and path.name[0] != "."]
    if remains and not (directory / "config.yaml").exists():
        raise RunError(f"{directory} holds something else than a run: choose another name=")
    number = 1 + (len(list(attempts.iterdir())) if attempts.exists() else 0)
    if remains:
        kept = attempts / str(number)
        kept.mkdir(parents=True)
        for path in remains:
            shutil.move(path, kept / path.name)
        number += 1
    _write_text(directory / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
    for kind, plugin in config.get("plugins", {}).items():
        source = Path(plugin["file"])
        _write_text(_kept(directory, kind, plugin), source.read_text())
    return number


def _kept(directory: Path, kind: str, plugin: Mapping[str, Any]) -> Path:
    """Where a run keeps the source of its cell, init or task: two may have one file name."""
    return directory / "plugins" / kind / Path(plugin["file"]).name


def build_model(
    config: Mapping[str, Any],
    input_size: int,
    output_size: int,
    reads: Any,
    engine: str | None = None,
) -> Any:
    """The model that a resolved config describes, for a task of these sizes.

    The engine is the config's unless given.
    """
    cell, init = dict(config["cell"]), dict(config["init"])
    rnn = RNN(
        cell.pop("name"),
        input_size,
        config["hidden_size"],
        config["num_layers"],
        batch_first=True,
        dropout=config["dropout"],
        bidirectional=config["bidirectional"],
        init=init,
        engine=engine or config["engine"],
        checkpoint_steps=config.get("checkpoint_steps"),
        **cell,
    )
    return SequenceModel(rnn, output_size, reads)


def load_run(directory: str | os.PathLike[str], checkpoint: str = "best") -> SequenceModel:
    """The trained model of a run, in eval mode, on the CPU.

    A cell that is not cellzoo's is built from the source that the run keeps, whatever has become
    of it since.

    Args:
        directory: the run's.
        checkpoint: "best" (by validation) or "last".

    Raises:
        RunError: there is no such run or checkpoint.
    """
    directory = Path(directory)
    config = read_config(directory)
    path = directory / "checkpoints" / f"{checkpoint}.ckpt"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.ckpt"))) or "none"
        raise RunError(f"{directory} has no checkpoint {checkpoint!r}: there is {known}")
    weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    result = read_result(directory) or {}
    plugins = config.get("plugins", {})
    sources = {p["sha256"]: _kept(directory, kind, p) for kind, p in plugins.items()}
    with only(sources):
        model = build_model(config, result["input_size"], result["output_size"], result["reads"])
    model.load_state_dict({name.removeprefix("model."): w for name, w in weights.items()})
    return model.eval()
