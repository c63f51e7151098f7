"""From registries and conf/ to a resolved config."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from copy import copy
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Optional, get_args, get_origin, get_type_hints

import torch
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cellzoo.cells.registry import cells
from cellzoo.names.options import option_specs
from cellzoo.names.plugins import code_hash, plugin_source
from cellzoo.names.registry import closest, nearest
from cellzoo.nn.inits import inits
from cellzoo.tasks import tasks

# What does not change a run's result: where it lies, what it is logged to, and the machine.
NOT_IDENTITY = ("name", "data", "logger", "wandb", "plugins", "checkpoint_steps", "save_every")
NOT_IDENTITY_TRAINER = ("accelerator", "devices", "num_nodes", "strategy", "log_every_n_steps")


class ConfigError(ValueError):
    """An override that makes no sense; one line that says which, and what is near."""


@dataclasses.dataclass
class Schema:
    """The types of the top-level values; conf/config.yaml gives them."""

    name: Optional[str] = None  # noqa: UP045  (OmegaConf reads this annotation)
    seed: int = 0
    hidden_size: int = 64
    budget: Optional[int] = None  # noqa: UP045
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    engine: str = "auto"
    checkpoint_steps: Optional[int] = None  # noqa: UP045
    save_every: float = 10.0
    cell: Any = None
    init: Any = None
    task: Any = None
    optimizer: Any = None
    scheduler: Any = None
    trainer: Any = None
    logger: Any = None
    launcher: Any = None
    search: Any = None
    early_stopping: Any = None
    data: Any = None
    wandb: Any = None


def conf_folder() -> Path:
    """conf/: the package's copy in an installed wheel, else the repository's."""
    package = Path(str(files("cellzoo")))
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def store_choices() -> None:
    """Make every registered cell, init and task a choice of its Hydra group, options and all."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Schema)
    for name in cells.names():
        options = {option: spec.default for option, spec in option_specs(cells[name]).items()}
        store.store(group="cell", name=name, node=_node("cell", name, options))
    for name in inits.names():
        common = {"forget_bias": _maybe_float, "chrono": _maybe_float, "blocks": None}
        options = {**inits[name].options, **common}
        store.store(group="init", name=name, node=_node("init", name, options))
    for name in tasks.names():
        options = {option: spec.default for option, spec in option_specs(tasks[name]).items()}
        store.store(group="task", name=name, node=_node("task", name, options))


_maybe_float = object()


def _node(group: str, name: str, options: Mapping[str, Any]) -> Any:
    """A typed config node: a wrong type is refused when the config is composed."""
    fields: list[Any] = [("name", str, name)]
    for option, default in options.items():
        if default is _maybe_float:
            fields.append((option, Optional[float], None))  # noqa: UP045
        elif isinstance(default, bool | int | float | str):
            fields.append((option, type(default), default))
        else:
            fields.append((option, Any, dataclasses.field(default_factory=partial(copy, default))))
    return dataclasses.make_dataclass(f"{group}_{name}", fields)


def groups() -> dict[str, list[str]]:
    """The config groups and their choices: what is registered, and the folders of conf/."""
    folders = {path.name: [f.stem for f in path.glob("*.yaml")] for path in conf_folder().iterdir()}
    in_conf = {group: names for group, names in folders.items() if names}
    return in_conf | {"cell": cells.names(), "init": inits.names(), "task": tasks.names()}


def check_overrides(overrides: list[str], sweeping: bool) -> None:
    """Refuse, in one line, what is no override, and a choice that does not exist.

    Args:
        overrides: from the command line.
        sweeping: whether values may be several, separated by commas.

    Raises:
        ConfigError: which override is wrong, and what is near.
    """
    known = groups()
    for each in overrides:
        if "=" not in each and not each.startswith("~"):
            raise ConfigError(f"an override is KEY=VALUE, not {each!r}")
    parsed = parse(overrides)
    if {"budget", "hidden_size"} <= {override.key_or_group for override in parsed}:
        raise ConfigError("budget= finds the hidden_size: say one of the two")
    for override in parsed:
        group, value = override.key_or_group, override.value()
        if override.is_sweep_override() and not sweeping:
            raise ConfigError(f"train is one run: cellzoo sweep {override.input_line}")
        if group not in known or override.value_type == ValueType.GLOB_CHOICE_SWEEP:
            continue  # a glob takes what there is
        if override.value_type == ValueType.INTERVAL_SWEEP:
            raise ConfigError(f"{override.input_line}: {group} is a choice and has no interval")
        for choice in override.sweep_string_iterator() if override.is_sweep_override() else [value]:
            if choice is not None and str(choice) not in known[group]:
                hint = nearest(str(choice), known[group])
                hint += " (one of your own: --plugin FILE)" if group == "cell" else ""
                raise ConfigError(f"unknown {group} {str(choice)!r}: {hint}")


def parse(overrides: list[str]) -> list[Override]:
    """Hydra's reading of overrides.

    Raises:
        ConfigError: one that cannot be parsed.
    """
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise ConfigError(" ".join(str(error).split())) from error


def explain(error: Exception, keys: list[str]) -> str:
    """One line for an error of Hydra or OmegaConf.

    Args:
        error: what was raised.
        keys: the keys that a config has, to name the nearest.
    """
    cause: BaseException | None = error
    text = ""
    while cause is not None:
        text += "\n" + str(cause)
        cause = cause.__cause__
    if match := re.search(r"Key '(\w+)' not in '(cell|init|task)_(\w+)'", text):
        option, group, name = match.groups()
        own = [key.split(".")[1] for key in keys if key.startswith(f"{group}.")]
        meant = closest(option, [each for each in own if each not in ("name", option)])
        hint = f": did you mean {meant!r}?" if meant else ""
        return f"{group} {name} has no option {option!r}{hint}"
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        if key not in keys:
            return f"unknown option {key!r}: {nearest(key, keys)}"
        reason = re.search(r"Value .*", text)
        return f"{key}: {reason[0]}" if reason else f"{key} cannot be set like that"
    if match := re.search(r"(Value '.*' .*)", text):
        key = re.search(r"full_key: (\S+)", text)
        return f"{key[1] if key else 'config'}: {match[1]}"
    return " ".join(str(error).split())


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def resolved(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain containers, its plugins' code by hash among them.

    Raises:
        ConfigError: an interpolation that leads nowhere.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    assert isinstance(plain, dict)
    settings = {str(key): value for key, value in plain.items() if key not in ("hydra",)}
    for key in ("experiment", "launcher", "search"):  # among the others; a sweep's
        settings.pop(key, None)
    if settings["budget"] is None:  # a run without one is the run that it was before there were
        del settings["budget"]
    settings["plugins"] = {
        kind: {"file": str(path), "sha256": code_hash(path)}
        for kind, thing in plugged(settings).items()
        if (path := plugin_source(thing)) is not None
    }
    return settings


def check_values(config: Mapping[str, Any]) -> None:
    """Refuse values of another type than conf/ gives them; the registered groups check their own.

    Raises:
        ConfigError: a value, the type that was expected, and where.
    """
    if config["seed"] < 0:
        raise ConfigError(f"seed must be 0 or more, not {config['seed']}")
    for group in ("optimizer", "scheduler", "logger"):
        name = config[group].get("name", "wandb")
        file = conf_folder() / group / f"{name}.yaml"
        defaults: Any = OmegaConf.to_container(OmegaConf.load(file))
        for key, default in defaults.items():
            value = config[group].get(key)
            number = isinstance(default, int | float) and not isinstance(default, bool)
            if number and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ConfigError(f"{group}.{key} must be a number, not {value!r}")
    if not isinstance(config["wandb"]["tags"], list):
        raise ConfigError(f"wandb.tags is a list, [a,b], not {config['wandb']['tags']!r}")
    mode, modes = config["wandb"]["mode"], ("offline", "online")
    if mode not in modes:
        raise ConfigError(f"wandb.mode is one of {', '.join(modes)}, not {mode!r}")
    hints = get_type_hints(Trainer.__init__)
    for key, value in config["trainer"].items():
        if key not in hints:
            raise ConfigError(f"lightning.Trainer has no argument {key!r}: {nearest(key, hints)}")
        accepted = set(get_args(hints[key])) or {hints[key]}
        takes_text = str in accepted or any(get_origin(each) is not None for each in accepted)
        if isinstance(value, str) and not takes_text:
            kinds = sorted(each.__name__ for each in accepted if each is not type(None))
            raise ConfigError(f"trainer.{key} must be {' or '.join(kinds)}, not {value!r}")


def plugged(config: Mapping[str, Any]) -> dict[str, Any]:
    """The registered things that a config names."""
    return {
        "cell": cells[config["cell"]["name"]],
        "init": inits[config["init"]["name"]].fill,
        "task": tasks[config["task"]["name"]],
    }


def identity(config: Mapping[str, Any]) -> str:
    """The hash of what a run computes, its seed aside.

    That is the resolved config less paths, logging and machine, with the code of its plugins (an
    edited cell is a different run) and the number of ranks.
    """
    settings = {key: value for key, value in config.items() if key not in (*NOT_IDENTITY, "seed")}
    settings["trainer"] = {
        key: value for key, value in config["trainer"].items() if key not in NOT_IDENTITY_TRAINER
    }
    if (number := ranks(config["trainer"])) > 1:
        settings["ranks"] = number  # they share a batch of so many times batch_size
    settings["code"] = {kind: p["sha256"] for kind, p in config.get("plugins", {}).items()}
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def ranks(trainer: Mapping[str, Any]) -> int:
    """The number of processes that train together."""
    devices, gpu = trainer["devices"], trainer["accelerator"] in ("gpu", "cuda", "auto")
    found = torch.cuda.device_count() if gpu else 0
    if isinstance(devices, str) and devices not in ("auto", "-1"):
        devices = [each for each in devices.split(",") if each] if "," in devices else int(devices)
    if isinstance(devices, list):
        devices = len(devices)
    elif devices in ("auto", "-1", -1):
        devices = max(found, 1)
    return devices * trainer.get("num_nodes", 1)


def run_path(config: Mapping[str, Any]) -> str:
    """A run's place in its sweep: <cell>-<hash>/s<seed>."""
    return f"{config['cell']['name']}-{identity(config)}/s{config['seed']}"
