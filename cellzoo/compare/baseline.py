"""Differences between each group and a baseline, over paired runs."""

from collections.abc import Sequence

import numpy

from cellzoo.compare.errors import CompareError, unknown
from cellzoo.compare.groups import Group
from cellzoo.compare.keys import distinguishing_keys, outermost, resolve, varying_keys
from cellzoo.compare.statistics import mean, mean_interval, paired_differences


def differences_to(
    baseline: str, groups: Sequence[Group], by: Sequence[str], metric: str
) -> list[dict[str, object]]:
    """Return the columns of the paired difference to the baseline, one mapping for each group."""
    fixed = baseline_values(baseline, groups, by)
    pairing = pairing_keys(groups, by)
    known = {group.key: group for group in groups}
    columns: list[dict[str, object]] = []
    for group in groups:
        key = tuple(fixed.get(name, own) for name, own in zip(by, group.key, strict=True))
        other = known.get(key)
        if other is group or other is None or not len(group.done) or not len(other.done):
            differences = numpy.array([])
        else:
            differences = paired_differences(group.done, other.done, metric, pairing)
        low, high = mean_interval(differences)
        columns.append(
            {
                "difference": mean(differences),
                "difference_low": low,
                "difference_high": high,
                # None rather than 0: the baseline is not compared with itself.
                "pairs": None if other is group else len(differences),
            }
        )
    return columns


def pairing_note(
    baseline: str, groups: Sequence[Group], by: Sequence[str], paired: list[dict[str, object]]
) -> str:
    """Return the note below the table that describes the pairs of runs."""
    keys = outermost(pairing_keys(groups, by))
    note = f"Difference: to {baseline}, mean over pairs of runs equal in {', '.join(keys)}"
    apart = outermost(distinguishing_keys([group.runs for group in groups], by))
    if apart:
        note += f"; {', '.join(apart)} differ from group to group and count as part of them"
    if not any(columns["pairs"] for columns in paired):
        note += "; there are no such pairs"
    return note + "."


def pairing_keys(groups: Sequence[Group], by: Sequence[str]) -> list[str]:
    """Return the keys that have equal values in the two runs of a pair.

    They are the seed and every other setting that varies within a group, except the options of
    the compared keys.
    """
    varying = varying_keys([group.runs for group in groups], by)
    return [*(["seed"] if "seed" not in by else []), *(key for key in varying if key != "seed")]


def baseline_values(baseline: str, groups: Sequence[Group], by: Sequence[str]) -> dict[str, str]:
    """Return the values that `--baseline` fixes: `lstm`, or `cell=lstm,init=torch`.

    A key without a value keeps the value of each row: with `--by cell,init`, the baseline `lstm`
    compares each cell at the same init.
    """
    fixed: dict[str, str] = {}
    present = {name: {group.key[i] for group in groups} for i, name in enumerate(by)}
    for part in baseline.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if equals:
            name = resolve(groups[0].runs, name)
            if name not in present:
                raise CompareError(f"--baseline {baseline}: {name} is not a key of --by")
        else:
            value = name
            holders = [name for name, values in present.items() if value in values]
            if len(holders) > 1:
                raise CompareError(
                    f"--baseline {value} matches {' and '.join(holders)}; give {holders[0]}={value}"
                )
            if not holders:
                raise unknown("group for the baseline", value, set().union(*present.values()))
            name = holders[0]
        if value not in present[name]:
            raise unknown(f"{name} for the baseline", value, present[name])
        fixed[name] = value
    return fixed
