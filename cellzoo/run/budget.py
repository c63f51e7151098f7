"""Parameter-matched models: the hidden_size that brings a model nearest to a budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from cellzoo.config.compose import ConfigError
from cellzoo.run.directory import build_model
from cellzoo.run.train import build_task

# A cell may take few sizes only: how far apart they may lie.
GAP = 4096


def apply_budget(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config with the hidden_size that its budget asks for; without one, as it is.

    Raises:
        ConfigError: the budget is less than the smallest such model has.
        ValueError, TypeError, LookupError, OSError: no such model can be built.
    """
    if config.get("budget") is None:
        return dict(config)
    # Neither init nor seed changes a count.
    relevant = {key: config[key] for key in ("cell", "task", "data", "num_layers", "bidirectional")}
    size = _solved(json.dumps(relevant), config["budget"])
    return {**config, "hidden_size": size}


def hidden_size_for(budget: int, count: Callable[[int], int]) -> int:
    """The hidden_size whose model has nearest to so many parameters; of two as near, the smaller.

    Args:
        budget: parameters of the whole model.
        count: a model's parameters by hidden_size. It grows with it, and raises ValueError for a
            size that the cell does not take (heads that must divide it, for one).

    Raises:
        ConfigError: the smallest model has more.
        ValueError: no size is taken.
    """

    def taken_from(size: int) -> tuple[int, int]:
        """The first size from here on that the cell takes, and its count."""
        for each in range(size, size + GAP):
            try:
                return each, count(each)
            except ValueError as error:
                last = error
        raise last

    below = taken_from(1)
    if below[1] > budget:
        raise ConfigError(
            f"budget={budget} is too small: with hidden_size={below[0]}, its least, the model has "
            f"{below[1]} parameters"
        )
    above = taken_from(2 * below[0])
    while above[1] < budget:
        below, above = above, taken_from(2 * above[0])
    low, high = below[0], above[0]  # every size that may be better lies between
    while high - low > 1:
        middle = (low + high) // 2
        size, parameters = taken_from(middle)
        if size < above[0] and parameters < budget:
            below, low = (size, parameters), size
        else:
            above, high = min(above, (size, parameters)), middle
    return min(below, above, key=lambda each: abs(each[1] - budget))[0]


@lru_cache(1024)
def _solved(relevant: str, budget: int) -> int:
    config = json.loads(relevant)
    task = build_task({**config, "seed": 0})
    plain = {**config, "init": {"name": "zeros"}, "dropout": 0.0, "engine": "loop"}

    def count(size: int) -> int:
        sized = {**plain, "hidden_size": size}
        model = build_model(sized, task.input_size, task.output_size, task.reads)
        return sum(parameter.numel() for parameter in model.parameters())

    return hidden_size_for(budget, count)
