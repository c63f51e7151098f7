"""The directory of a run, in open formats, each file written completely or not at all.

result.json    status, metrics, sizes, versions
config.yaml    the resolved config
metrics.csv    every logged value by step
checkpoints/   best.ckpt (by validation) and last.ckpt
train.log      messages of the libraries
wandb/         W&B's file of the run
plugins/       the source of a cell, init or task that is not cellzoo's own
attempts/      the files of an attempt that could not be resumed
.lock          held by the process that runs
"""

import errno
import json
import os
from pathlib import Path
from typing import Any

import torch
import yaml

from cellzoo.config.schema import Plugin, RunConfig
from cellzoo.names.plugins import only_plugins
from cellzoo.run.model import SequenceModel, build_model
from cellzoo.run.result import ENDED, RunResult, Status
from cellzoo.system.files import write_whole
from cellzoo.system.locks import held

LOCK = ".lock"  # held by the process that runs
RESERVE = ".reserve"  # space for the last result.json, where the disk is full


class RunError(RuntimeError):
    """A directory that holds no run, another run, or one in another state than needed."""


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda target: target.write_text(text))


def write_result(directory: Path, result: RunResult) -> None:
    """Write result.json; on a full disk, into the reserved space."""
    text = json.dumps(result.to_mapping(), indent=2, allow_nan=False) + "\n"
    try:
        _write_text(directory / "result.json", text)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free_space(directory)
        _write_text(directory / "result.json", text)


def reserve_space(directory: Path) -> None:
    """Reserve space for the last result.json of a run."""
    (directory / RESERVE).write_bytes(bytes(32 * 1024))


def free_space(directory: Path) -> None:
    """Free the reserved space."""
    (directory / RESERVE).unlink(missing_ok=True)


def read_result(directory: Path) -> RunResult | None:
    """Return the result of a run; None where there is no result.json.

    Raises:
        RunError: it cannot be read.
    """
    path = directory / "result.json"
    try:
        return RunResult.from_mapping(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def status(directory: Path) -> Status:
    """Return the status of a run: running only if a process holds its lock now.

    Raises:
        RunError: result.json cannot be read.
    """
    result = read_result(directory)
    recorded = result.status if result else Status.LEFT
    if recorded not in ENDED and held(directory / LOCK):
        return Status.RUNNING
    return Status.INTERRUPTED if recorded is Status.RUNNING else recorded


def read_config(directory: Path) -> RunConfig:
    """Return the resolved config of a run.

    Raises:
        RunError: the directory holds none that can be read.
    """
    path = directory / "config.yaml"
    try:
        return RunConfig.from_mapping(yaml.safe_load(path.read_text()))
    except FileNotFoundError:
        runs = [path.parent for path in directory.glob("*/*/config.yaml")]
        below = sorted(str(run.relative_to(directory)) for run in runs)
        hint = f"; below it are {', '.join(below[:3])}…" if below else ""
        raise RunError(f"{directory} holds no run: there is no config.yaml{hint}") from None
    except (OSError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def keep_sources(directory: Path, config: RunConfig) -> None:
    """Write config.yaml, and copy the source of plugins."""
    text = yaml.safe_dump(config.to_mapping(), sort_keys=False)
    _write_text(directory / "config.yaml", text)
    for kind, plugin in config.plugins.items():
        _write_text(_kept(directory, kind, plugin), Path(plugin.file).read_text())


def _kept(directory: Path, kind: str, plugin: Plugin) -> Path:
    """Return the place of a plugin's copy; a cell and an init may have one file name."""
    return directory / "plugins" / kind / Path(plugin.file).name


def load_run(directory: str | os.PathLike[str], checkpoint: str = "best") -> SequenceModel:
    """Return the trained model of a run, in eval mode, on the CPU.

    A plugin's cell is built from the copy of its source in the run's directory.

    Args:
        directory: of the run.
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
    result: Any = read_result(directory)
    sources = {
        plugin.sha256: _kept(directory, kind, plugin) for kind, plugin in config.plugins.items()
    }
    with only_plugins(sources):
        model = build_model(config, result.input_size, result.output_size, result.reads)
    model.load_state_dict({name.removeprefix("model."): w for name, w in weights.items()})
    return model.eval()
