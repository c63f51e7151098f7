"""The config keys in the frame of runs: lookup, values as text, keys that vary.

The name of a metric contains a slash (`val/accuracy`). A config key never does (`optimizer.lr`).
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy
import pandas

from cellzoo.compare.errors import unknown
from cellzoo.config.identity import EXECUTION, flatten

#: The columns of a result besides the config and the metrics.
RESULT_COLUMNS = (
    "directory",
    "status",
    "reason",
    "parameters",
    "seconds",
    "steps",
    "steps_per_second",
    "monitor",
    "mode",
)

#: Config keys in which the runs of a pair may differ: the engines compute the same.
NOT_COMPARED = (*EXECUTION, "engine")


def columns_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config by dotted keys; a list becomes text, and `optimizer` means `optimizer.name`.

    The world size, on which the batch depends, stands for the devices.
    """
    flat = {
        key: json.dumps(value) if isinstance(value, list | tuple) else value
        for key, value in flatten(config).items()
        if value != {}
    }
    names = {
        key.removesuffix(".name"): value for key, value in flat.items() if key.endswith(".name")
    }
    return {"world_size": 1, **names, **flat}


def config_keys(runs: pandas.DataFrame) -> list[str]:
    """Return the columns that are config keys."""
    return [key for key in runs.columns if "/" not in key and key not in RESULT_COLUMNS]


def resolve(runs: pandas.DataFrame, key: str) -> str:
    """Return the column of a user's key.

    Raises:
        CompareError: There is no such column; the message names the nearest one.
    """
    known = config_keys(runs)
    short = key.removesuffix(".name")
    if short in known:
        return short
    if key not in known:
        raise unknown("config key", key, known)
    return key


def is_within(key: str, sections: Iterable[str]) -> bool:
    """Return whether `key` is a section or an option inside one (`cell` or `cell.proj_size`)."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def value_text(value: Any) -> str:
    """Return a config value as text; equal values have equal texts (32 and 32.0 are equal)."""
    if value is None or value is pandas.NA or (isinstance(value, float) and math.isnan(value)):
        return "null"
    if isinstance(value, bool | numpy.bool_):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    number = float(value)
    if number.is_integer() and abs(number) < 2**53:
        return str(int(number))
    return repr(number)


def row_keys(runs: pandas.DataFrame, keys: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the values of `keys` as text, one tuple for each run."""
    if not keys:
        return [()] * len(runs)
    columns = [runs[key].map(value_text) for key in keys]
    return list(zip(*columns, strict=True))


def varying_keys(groups: Sequence[pandas.DataFrame], without: Iterable[str] = ()) -> list[str]:
    """Return the settings that take more than one value inside at least one group."""
    return [
        key
        for key in _settings(groups, without)
        if any(group[key].map(value_text).nunique() > 1 for group in groups)
    ]


def distinguishing_keys(
    groups: Sequence[pandas.DataFrame], without: Iterable[str] = ()
) -> list[str]:
    """Return the settings that are constant inside every group and differ between groups.

    Such a setting belongs to the group: a hidden size that gives every cell the same number of
    parameters, or a learning rate that is selected for each.
    """
    varying = set(varying_keys(groups, without))
    return [
        key
        for key in _settings(groups, without)
        if key not in varying and len({value_text(group[key].iloc[0]) for group in groups}) > 1
    ]


def _settings(groups: Sequence[pandas.DataFrame], without: Iterable[str]) -> list[str]:
    """Return the config keys that are compared: without `without` and the keys of execution."""
    known = config_keys(groups[0]) if groups else []
    excluded = (*NOT_COMPARED, *without)
    return [
        key
        for key in known
        if not is_within(key, excluded)
        # `optimizer` holds the same value as `optimizer.name`.
        and not (key.endswith(".name") and key.removesuffix(".name") in known)
    ]


def outermost(keys: Sequence[str]) -> list[str]:
    """Return the keys without the options of a section that is itself a key."""
    return [key for key in keys if not is_within(key, [k for k in keys if k != key])]
