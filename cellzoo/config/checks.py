"""Checks of a command line and of a config, and one line for each error."""

import re
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import lightning
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from cellzoo.cells.registry import cells
from cellzoo.config.schema import GROUPS, Optimizer, RunConfig, Scheduler, Section, Trainer
from cellzoo.names.registry import closest, nearest
from cellzoo.nn.inits import inits
from cellzoo.tasks import tasks

WANDB_MODES = ("offline", "online")
# Names of types in OmegaConf's messages, in words.
TYPES = {
    "Integer": "a whole number", "int": "a whole number", "Float": "a number", "float": "a number",
    "Boolean": "true or false", "bool": "true or false", "str": "text",
}  # fmt: skip


class ConfigError(ValueError):
    """An invalid setting; the message is one line that names it and the nearest valid one."""


def conf_folder() -> Path:
    """Return conf/: the package's copy in an installed wheel, else the repository's."""
    package = Path(str(files("cellzoo")))
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def choices() -> dict[str, list[str]]:
    """Return the choices of each config group."""
    known = {group: list(nodes) for group, nodes in GROUPS.items()}
    known["experiment"] = [path.stem for path in conf_folder().glob("experiment/*.yaml")]
    return known | {"cell": cells.names(), "init": inits.names(), "task": tasks.names()}


def check_overrides(overrides: list[str], sweeping: bool) -> None:
    """Refuse a malformed override, and a choice that does not exist.

    Args:
        overrides: from the command line.
        sweeping: whether a key may have several values, separated by commas.

    Raises:
        ConfigError: names the override, and the nearest valid choice.
    """
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            raise ConfigError(f"an override is KEY=VALUE, not {text!r}")
    parsed = _parse(overrides)
    if {"budget", "hidden_size"} <= {override.key_or_group for override in parsed}:
        raise ConfigError("budget= finds the hidden_size: say one of the two")
    known = choices()
    for override in parsed:
        group = override.key_or_group
        if override.is_sweep_override() and not sweeping:
            raise ConfigError(f"train is one run: cellzoo sweep {override.input_line}")
        if group not in known or override.value_type == ValueType.GLOB_CHOICE_SWEEP:
            continue  # a glob matches existing choices only
        if override.value_type == ValueType.INTERVAL_SWEEP:
            raise ConfigError(f"{override.input_line}: {group} is a choice and has no interval")
        swept = override.is_sweep_override()
        for choice in override.sweep_string_iterator() if swept else [override.value()]:
            if choice is not None and str(choice) not in known[group]:
                hint = nearest(str(choice), known[group])
                hint += " (one of your own: --plugin FILE)" if group == "cell" else ""
                raise ConfigError(f"unknown {group} {str(choice)!r}: {hint}")


def _parse(overrides: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise ConfigError(" ".join(str(error).split())) from error


def explain(error: Exception, keys: list[str]) -> str:
    """Return one line for an error of Hydra or OmegaConf.

    Args:
        error: the exception that was raised.
        keys: the keys of the config, of which the nearest is named.
    """
    cause: BaseException | None = error
    text = ""
    while cause is not None:
        text += "\n" + str(cause)
        cause = cause.__cause__
    if match := re.search(r"Key '(\w+)' not in '(cell|init|task)_(\w+)'", text):
        option, group, name = match.groups()
        options = [key.split(".")[1] for key in keys if key.startswith(f"{group}.")]
        meant = closest(option, [key for key in options if key not in ("name", option)])
        hint = f": did you mean {meant!r}?" if meant else ""
        return f"{group} {name} has no option {option!r}{hint}"
    full_key = re.search(r"full_key: (\S+)", text)
    overridden = re.search(r"Could not override '([^']+)'", text)
    key = overridden[1] if overridden else full_key[1] if full_key else "config"
    if overridden and key not in keys:
        return f"unknown option {key!r}: {nearest(key, keys)}"
    mismatch = r"Value ('.*') of type '.*' (?:could not be converted to|is incompat.* hint) (.*)"
    if match := re.search(mismatch, text):
        kinds = [TYPES[kind] for kind in re.findall(r"\w+", match[2]) if kind in TYPES]
        return f"{key} must be {' or '.join(kinds) or match[2]}, not {match[1]}"
    if match := re.search(r"(\w+) is not a ListConfig", text):
        return f"{key} must be a list, [a,b], not of type {match[1]}"
    if match := re.search(r"(Value '.*' .*)", text):
        return f"{key}: {match[1]}"
    return f"{key} cannot be set to this value" if overridden else " ".join(str(error).split())


def refuse_unknown_keys(section: Section, prefix: str = "") -> None:
    """Refuse a key that was added by `+` where the config's class does not declare it.

    An optimizer, a scheduler and the trainer take further arguments, which torch and Lightning
    check.

    Raises:
        ConfigError: names the key, and the nearest declared one.
    """
    known = {declared.name for declared in fields(section)}
    for key, value in vars(section).items():
        if key not in known and not isinstance(section, Optimizer | Scheduler | Trainer):
            raise ConfigError(f"unknown option {prefix + key!r}: {nearest(key, known)}")
        if isinstance(value, Section):
            refuse_unknown_keys(value, f"{prefix}{key}.")


def check_values(config: RunConfig) -> None:
    """Refuse values that have the right type and no meaning.

    Raises:
        ConfigError: names the value and the expected ones.
    """
    if config.seed < 0:
        raise ConfigError(f"seed must be 0 or more, not {config.seed}")
    if config.wandb.mode not in WANDB_MODES:
        known = ", ".join(WANDB_MODES)
        raise ConfigError(f"wandb.mode is one of {known}, not {config.wandb.mode!r}")
    hints = get_type_hints(lightning.Trainer.__init__)
    for key, value in vars(config.trainer).items():
        if key not in hints:
            raise ConfigError(f"lightning.Trainer has no argument {key!r}: {nearest(key, hints)}")
        accepted = set(get_args(hints[key])) or {hints[key]}
        takes_text = str in accepted or any(get_origin(kind) is not None for kind in accepted)
        if isinstance(value, str) and not takes_text:
            kinds = sorted(kind.__name__ for kind in accepted if kind is not type(None))
            raise ConfigError(f"trainer.{key} must be {' or '.join(kinds)}, not {value!r}")
