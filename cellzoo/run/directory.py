"""A run on disk: one directory, in open formats, each file written whole or not at all.

result.json    status, metrics, sizes, versions
config.yaml    the resolved config
metrics.csv    every logged value by step
checkpoints/   best.ckpt (by validation) and last.ckpt
train.log      what the libraries said
wandb/         W&B's file of the run
plugins/       the source of a cell, init or task that is not cellzoo's own
attempts/      what is left of an attempt that could not be gone on with
.lock          held by the process that runs
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from cellzoo.names.plugins import only_plugins
from cellzoo.nn.rnn import RNN
from cellzoo.run.model import SequenceModel
from cellzoo.system.files import write_whole
from cellzoo.system.locks import held

Status = Literal["left", "running", "interrupted", "done", "diverged", "pruned", "failed"]
ENDED = ("done", "diverged")  # there is nothing left to do
LOCK = ".lock"  # held by the process that runs
RESERVE = ".reserve"  # space for how a run ended, where the disk is full


class RunError(RuntimeError):
    """A directory that holds no run, another run, or one that is not done."""


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda target: target.write_text(text))


def write_result(directory: Path, result: Mapping[str, Any]) -> None:
    """Write result.json; on a full disk, into the space that was reserved for it."""
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    try:
        _write_text(directory / "result.json", text)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free_space(directory)
        _write_text(directory / "result.json", text)


def reserve_space(directory: Path) -> None:
    """Set space aside for the last result.json of a run."""
    (directory / RESERVE).write_bytes(bytes(32 * 1024))


def free_space(directory: Path) -> None:
    """Give it back."""
    (directory / RESERVE).unlink(missing_ok=True)


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
    or gradient was not finite: never retried), "pruned" (a search ended it early) or "failed" (the
    reason is in result.json).

    Raises:
        RunError: result.json cannot be read.
    """
    result = read_result(directory)
    recorded: Status = result["status"] if result else "left"
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


def keep_sources(directory: Path, config: Mapping[str, Any]) -> None:
    """Write config.yaml, and the source of what is not cellzoo's own."""
    _write_text(directory / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
    for kind, plugin in config.get("plugins", {}).items():
        source = Path(plugin["file"])
        _write_text(_kept(directory, kind, plugin), source.read_text())


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
    with only_plugins(sources):
        model = build_model(config, result["input_size"], result["output_size"], result["reads"])
    model.load_state_dict({name.removeprefix("model."): w for name, w in weights.items()})
    return model.eval()
