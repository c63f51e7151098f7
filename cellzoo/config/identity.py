"""The identity of a run: a hash of everything that its numbers depend on."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from cellzoo.config.schema import RunConfig, Trainer

# Keys that say where and how a run is executed, not what it computes. `trainer.devices` and
# `trainer.num_nodes` enter an identity by the world size alone.
EXECUTION = (
    "name", "data", "logger", "wandb", "plugins", "checkpoint_steps", "save_every",
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy",
    "trainer.log_every_n_steps",
)  # fmt: skip


def identity(config: RunConfig) -> str:
    """Return the hash of everything that a run computes, apart from its seed.

    It covers the config without `EXECUTION`, the world size, and the code of plugins: an edited
    cell is another run.
    """
    settings = config.to_mapping()
    del settings["seed"]
    settings = {key: value for key, value in settings.items() if key not in EXECUTION}
    settings["trainer"] = {
        key: value
        for key, value in settings["trainer"].items()
        if f"trainer.{key}" not in EXECUTION
    }
    if (ranks := world_size(config.trainer)) > 1:
        settings["ranks"] = ranks  # they share a batch of ranks × batch_size
    settings["code"] = {kind: plugin.sha256 for kind, plugin in config.plugins.items()}
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_path(config: RunConfig) -> str:
    """Return the place of a run in its sweep: <cell>-<identity>/s<seed>."""
    return f"{config.cell.name}-{identity(config)}/s{config.seed}"


def world_size(trainer: Trainer) -> int:
    """Return the number of processes that train together."""
    devices = trainer.devices
    if isinstance(devices, str) and devices not in ("auto", "-1"):
        devices = [part for part in devices.split(",") if part] if "," in devices else int(devices)
    if isinstance(devices, list):
        number = len(devices)
    elif devices in ("auto", "-1", -1):
        gpus = trainer.accelerator in ("gpu", "cuda", "auto")
        number = max(torch.cuda.device_count() if gpus else 0, 1)
    else:
        number = int(devices)
    return number * int(getattr(trainer, "num_nodes", 1))


def flatten(mapping: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one of dotted keys; an empty mapping is a value.

    >>> flatten({"optimizer": {"name": "adam", "lr": 0.01}, "seed": 0})
    {'optimizer.name': 'adam', 'optimizer.lr': 0.01, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
