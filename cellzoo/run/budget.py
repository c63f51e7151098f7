"""Parameter-matched models: the hidden_size whose model has nearest to a number of parameters."""

import dataclasses
import json
from collections.abc import Callable
from functools import lru_cache

from cellzoo.config.checks import ConfigError
from cellzoo.config.schema import Choice, RunConfig
from cellzoo.run.build import build_task, model_for

GAP = 4096  # the largest distance between two sizes that a cell accepts
# The settings that a number of parameters depends on.
RELEVANT = ("cell", "task", "data", "num_layers", "bidirectional", "budget")


def apply_budget(config: RunConfig) -> RunConfig:
    """Return a config with the hidden_size for its budget; without a budget, the config itself.

    Raises:
        ConfigError: the budget is below the smallest model's.
        ValueError, TypeError, LookupError, OSError: no such model can be built.
    """
    if config.budget is None:
        return config
    mapping = config.to_mapping()
    relevant = json.dumps({key: mapping[key] for key in RELEVANT})
    return dataclasses.replace(config, hidden_size=_solved(relevant))


def hidden_size_for(budget: int, count: Callable[[int], int]) -> int:
    """Return the hidden_size whose model has nearest to `budget` parameters, on a tie the smaller.

    Args:
        budget: parameters of the whole model.
        count: returns a model's parameters by hidden_size. It grows with the size, and raises
            ValueError for a size that the cell does not accept (heads that must divide it).

    Raises:
        ConfigError: the smallest model has more parameters.
        ValueError: no size is accepted.

    >>> hidden_size_for(1000, lambda size: 10 * size * size)
    10
    """

    def accepted_from(size: int) -> tuple[int, int]:
        """Return the first accepted size from `size` on, and its count."""
        for candidate in range(size, size + GAP):
            try:
                return candidate, count(candidate)
            except ValueError as error:
                refusal = error
        raise refusal

    below = accepted_from(1)
    if below[1] > budget:
        raise ConfigError(
            f"budget={budget} is too small: with hidden_size={below[0]}, the smallest, the model "
            f"has {below[1]} parameters"
        )
    above = accepted_from(2 * below[0])
    while above[1] < budget:
        below, above = above, accepted_from(2 * above[0])
    low, high = below[0], above[0]  # every size that may be better lies between
    while high - low > 1:
        middle = (low + high) // 2
        size, parameters = accepted_from(middle)
        if size < above[0] and parameters < budget:
            below, low = (size, parameters), size
        else:
            above, high = min(above, (size, parameters)), middle
    return min(below, above, key=lambda pair: abs(pair[1] - budget))[0]


@lru_cache(1024)
def _solved(relevant: str) -> int:
    # Neither init nor seed changes a count.
    config = RunConfig.from_mapping({**json.loads(relevant), "engine": "loop"})
    config.init = Choice("zeros")
    task = build_task(config)

    def count(size: int) -> int:
        model = model_for(dataclasses.replace(config, hidden_size=size), task)
        return sum(parameter.numel() for parameter in model.parameters())

    return hidden_size_for(config.budget or 0, count)
