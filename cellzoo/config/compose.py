"""From a command line to configs, by Hydra.

Every registered cell, init and task is a choice of its Hydra group, as are schema.py's classes.
A sweep composes without Hydra's sweeper, which composes every job twice before the first starts.
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, Optional, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cellzoo.cells.registry import cells
from cellzoo.config.checks import ConfigError, conf_folder, explain, refuse_unknown_keys
from cellzoo.config.identity import flatten
from cellzoo.config.schema import GROUPS, Choice, Composed, Plugin, RunConfig
from cellzoo.names.options import option_specs
from cellzoo.names.plugins import code_hash, plugin_source
from cellzoo.nn.inits import inits
from cellzoo.tasks import tasks

# Values of one key, as overrides; a key with one value is not swept.
Axes = tuple[tuple[str, ...], ...]


def store_choices() -> None:
    """Make every choice known to Hydra, with the options of registered cells, inits and tasks."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Composed)
    for group, choices in GROUPS.items():
        for name, node in choices.items():
            store.store(group=group, name=name, node=node)
    for group, registry in (("cell", cells), ("task", tasks)):
        for name in registry.names():
            options = {key: spec.default for key, spec in option_specs(registry[name]).items()}
            store.store(group=group, name=name, node=_node(group, name, options))
    bias = Optional[float]  # noqa: UP045  (OmegaConf reads this annotation)
    common: list[Any] = [("forget_bias", bias, None), ("chrono", bias, None), ("blocks", Any, None)]
    for name in inits.names():
        store.store(group="init", name=name, node=_node("init", name, inits[name].options, common))


def _node(group: str, name: str, options: Mapping[str, Any], more: Sequence[Any] = ()) -> type:
    """Return a class of a choice: Hydra refuses an unknown option, or one of another type."""
    typed: list[Any] = [("name", str, name)]
    for option, default in options.items():
        if isinstance(default, bool | int | float | str):
            typed.append((option, type(default), default))
        else:
            factory = dataclasses.field(default_factory=partial(copy.copy, default))
            typed.append((option, Any, factory))
    return dataclasses.make_dataclass(f"{group}_{name}", [*typed, *more], bases=(Choice,))


def composed(config: DictConfig) -> Composed:
    """Return a composed config as objects.

    Raises:
        ConfigError: an interpolation without a target, or a key that no class declares.
    """
    try:
        found = cast(Composed, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, [])) from error
    refuse_unknown_keys(found)
    return found


def resolved(config: DictConfig) -> RunConfig:
    """Return the config of one run, with the hashes of its plugins' code.

    Raises:
        ConfigError: as for `composed`.
    """
    run = composed(config).run()
    run.plugins = {
        kind: Plugin(str(path), code_hash(path))
        for kind, registered in plugged(run).items()
        if (path := plugin_source(registered)) is not None
    }
    return run


def plugged(config: RunConfig) -> dict[str, Any]:
    """Return the registered cell, init and task that a config names."""
    return {
        "cell": cells[config.cell.name],
        "init": inits[config.init.name].fill,
        "task": tasks[config.task.name],
    }


class Composer:
    """Configs from overrides, equal to Hydra's.

    Hydra's last step is to update the composed groups with the given values, by
    `OmegaConf.update`. So the groups are composed once for each choice of them (some 50 ms), and
    a job's values are set by the same call on a copy (1 ms).

    Args:
        extra: overrides that all configs have.
    """

    def __init__(self, extra: Sequence[str] = ()) -> None:
        self.extra = list(extra)
        self._loader = GlobalHydra.instance().config_loader()
        self._parser = OverridesParser.create(config_loader=self._loader)
        self._parse = lru_cache(4096)(self._parser.parse_override)
        self._groups = lru_cache(256)(self._hydra)
        self._is_group = lru_cache(256)(lambda key: bool(self._loader.get_group_options(key)))

    def read(self, overrides: Sequence[str]) -> tuple[Axes, list[Override]]:
        """Return the values of each key, and the intervals to search; the last of a key counts.

        Raises:
            ConfigError: an override that cannot be parsed, or that has no values.
        """
        axes: dict[str, tuple[str, ...]] = {}
        intervals: dict[str, Override] = {}
        for override in map(self._parsed, overrides):
            override.config_loader = self._loader  # for glob(…)
            key = override.get_key_element()
            if not override.is_sweep_override():
                axes[key] = (f"{key}={override.get_value_element_as_str()}",)
            elif override.is_discrete_sweep():
                axes[key] = tuple(f"{key}={value}" for value in override.sweep_string_iterator())
            else:
                axes.pop(key, None)
                intervals[key] = override
                continue
            intervals.pop(key, None)
            if not axes[key]:
                raise ConfigError(f"{override.input_line}: nothing matches")
        return tuple(axes.values()), list(intervals.values())

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the config that Hydra's compose gives for these overrides.

        Raises:
            HydraException, OmegaConfBaseException: as Hydra raises them.
        """
        parsed = [self._parsed(override) for override in overrides]
        values = [override for override in parsed if self._is_value(override)]
        if self.extra or not all(map(_is_plain, values)):
            return self._hydra(tuple(overrides))
        pairs = zip(overrides, parsed, strict=True)
        config = copy.deepcopy(self._groups(tuple(o for o, p in pairs if p not in values)))
        try:
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return self._hydra(tuple(overrides))  # raises it with Hydra's message
        return config

    def keys(self, overrides: Sequence[str]) -> list[str]:
        """Return the keys of a config with the groups that these overrides choose."""
        choices = tuple(o for o in overrides if not self._is_value(self._parsed(o)))
        plain = cast(dict[Any, Any], OmegaConf.to_container(self._groups(choices), resolve=False))
        return [*flatten(plain), *(str(key) for key in plain)]

    def _hydra(self, overrides: tuple[str, ...]) -> DictConfig:
        return compose("config", [*self.extra, *overrides])

    def _parsed(self, override: str) -> Override:
        try:
            return self._parse(override)
        except HydraException as error:
            raise ConfigError(f"{override}: {' '.join(str(error).split())}") from error

    def _is_value(self, override: Override) -> bool:
        """Return whether Hydra reads an override as a value, not as the choice of a group."""
        return isinstance(override.value(), dict) or not self._is_group(override.key_or_group)


@contextmanager
def composer(extra: Sequence[str] = ()) -> Iterator[Composer]:
    """Yield a composer of cellzoo's configs; `extra` are overrides that all configs have."""
    with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        yield Composer(extra)


def _is_plain(override: Override) -> bool:
    return override.type == OverrideType.CHANGE and override.package is None
