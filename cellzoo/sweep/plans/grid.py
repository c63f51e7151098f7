"""What a sweep's command line asks for, and its configs one by one.

Hydra's syntax and Hydra's configs, without Hydra's sweeper, which composes every job twice before
the first one starts.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cellzoo.config.compose import ConfigError, conf_folder, flatten


@dataclass(frozen=True)
class Plan:
    """The product of the values that overrides give, in Hydra's order: the last varies fastest.

    Attributes:
        axes: for each key its overrides, one or several.
    """

    axes: tuple[tuple[str, ...], ...]

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return math.prod(len(axis) for axis in self.axes)

    prunes = False  # whether it ends poor runs early

    def jobs(self) -> Iterator[tuple[str, ...]]:
        """Every job's overrides."""
        return itertools.product(*self.axes)

    def probes(self) -> Iterator[tuple[str, ...]]:
        """Jobs that have every value once: what is wrong with one shows before the first job."""
        first = tuple(axis[0] for axis in self.axes)
        yield first
        for place, axis in enumerate(self.axes):
            for value in axis[1:]:
                yield (*first[:place], value, *first[place + 1 :])

    def said(self, overrides: Sequence[str]) -> str:
        """What sets a job apart: its overrides of the keys with several values."""
        swept = (o for o, axis in zip(overrides, self.axes, strict=True) if len(axis) > 1)
        return " ".join(swept)

    def trial(self, number: int) -> dict[str, Any] | None:
        """What a search wants a job's process to know, by its number from 1 on; a grid, nothing."""
        return None

    def tell(self, number: int, result: Mapping[str, Any]) -> None:
        """Take in how a job ended; a grid goes on as it would."""

    def best(self) -> list[str]:
        """What a search found, in lines; a grid is for `cellzoo compare`."""
        return []


class Composer:
    """Configs from overrides, equal to Hydra's.

    The last thing that Hydra does is to update the composed groups with the values given, by
    `OmegaConf.update`. So the groups are composed once for each choice of them (some 50 ms), and
    a job's values are set by the same call on a copy (1 ms).
    """

    def __init__(self, extra: Sequence[str] = ()) -> None:
        self.extra = list(extra)
        self._loader = GlobalHydra.instance().config_loader()
        self._parser = OverridesParser.create(config_loader=self._loader)
        self._parse = lru_cache(4096)(self._parser.parse_override)
        self._groups = lru_cache(256)(self._hydra)
        self._is_group = lru_cache(256)(lambda key: bool(self._loader.get_group_options(key)))

    def plan(self, overrides: Sequence[str]) -> tuple[Plan, list[Override]]:
        """Read the overrides of a command line: the grid, and the intervals to search.

        Raises:
            ConfigError: one that cannot be parsed, or that has no values to go through.
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
        return Plan(tuple(axes.values())), list(intervals.values())

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config that Hydra's compose gives for these overrides.

        Raises:
            HydraException, OmegaConfBaseException: what Hydra raises.
        """
        parsed = [self._parsed(each) for each in overrides]
        values = [each for each in parsed if self._is_value(each)]
        if self.extra or not all(map(_is_plain, values)):
            return self._hydra(tuple(overrides))
        choices = tuple(o for o, each in zip(overrides, parsed, strict=True) if each not in values)
        config = copy.deepcopy(self._groups(choices))
        try:
            for each in values:
                OmegaConf.update(config, each.key_or_group, each.value(), merge=True)
        except OmegaConfBaseException:
            return self._hydra(tuple(overrides))  # raises it with Hydra's words
        return config

    def keys(self, overrides: Sequence[str]) -> list[str]:
        """The keys that configs have with the groups that these overrides choose."""
        chosen = [o for o in overrides if not self._is_value(self._parsed(o))]
        plain = OmegaConf.to_container(self._groups(tuple(chosen)), resolve=False)
        assert isinstance(plain, dict)
        return [*flatten(plain), *(str(key) for key in plain)]

    def _hydra(self, overrides: tuple[str, ...]) -> DictConfig:
        return compose("config", [*self.extra, *overrides])

    def _parsed(self, override: str) -> Override:
        try:
            return self._parse(override)
        except HydraException as error:
            raise ConfigError(f"{override}: {' '.join(str(error).split())}") from error

    def _is_value(self, override: Override) -> bool:
        """Whether Hydra takes an override for a value, and not for the choice of a group."""
        return isinstance(override.value(), dict) or not self._is_group(override.key_or_group)


@contextmanager
def composer(extra: Sequence[str] = ()) -> Iterator[Composer]:
    """A composer of cellzoo's configs.

    Args:
        extra: overrides that all of them have.
    """
    with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        yield Composer(extra)


def _is_plain(override: Override) -> bool:
    return override.type == OverrideType.CHANGE and override.package is None
