"""The cell under test, and the numbers that it is tested with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cellzoo.cells.base import GatedCell
from cellzoo.cells.registry import cell_class
from cellzoo.names.options import option_specs
from cellzoo.nn.rnn import RNN

F64 = torch.float64
SIZES = ((3, 4), (4, 4), (8, 8))


@dataclass(frozen=True, eq=False)
class Subject:
    """A cell under test.

    Attributes:
        cell: a registered name, or a class.
        options: the cell's, as it is to be tested.
        reference: one step in NumPy, written from the paper; see `reference`. None: there is none.
        parameters: from I and H to the number of parameters that the paper counts.
        sizes: the (I, H) that the reference and the number of parameters are compared at.
    """

    cell: str | type[GatedCell]
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: Callable[..., Any] | None = None
    parameters: Callable[[int, int], int] | None = None
    sizes: tuple[tuple[int, int], ...] = ((1, 1), (3, 2), (2, 5), (4, 4))

    def __str__(self) -> str:
        kind = cell_class(self.cell)
        name = vars(kind).get("registered_name") or kind.__name__
        return " ".join([name, *(f"{key}={value}" for key, value in self.options.items())])

    @cached_property
    def size(self) -> tuple[int, int]:
        """The I and H of most checks: the first that the cell takes.

        Raises:
            ValueError: it takes none of them; what it says of the first.
        """
        refusals = []
        for size in (*SIZES, *self.sizes):
            try:
                RNN(self.cell, *size, **self.options)
            except ValueError as error:
                refusals.append(error)
            else:
                return size
        raise refusals[0]

    def rnn(
        self,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        scale: float = 0.5,
        **keywords: Any,
    ) -> RNN:
        """An RNN of this cell in float64, by the loop, in eval mode, with random parameters.

        What starts with a value of its own (a gain, a time constant) stays near it.
        """
        keywords = {"dtype": F64, "engine": "loop", **self.options, **keywords}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            rnn = RNN(self.cell, *(size or self.size), **keywords).eval()
            started = {name for name, e in rnn.extra_parameters().items() if e.init is not None}
            for name, parameter in rnn.named_parameters():
                noise = torch.randn_like(parameter)
                if name in started:
                    parameter.mul_(1 + 0.2 * noise).add_(0.01 * torch.randn_like(parameter))
                else:
                    parameter.copy_(scale * noise)
        return rnn


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers that depend on the seed alone, as a leaf that takes a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=F64).requires_grad_()


def elapsed(rnn: RNN, steps: int, batch: int, seed: int = 0) -> Tensor | None:
    """Random positive elapsed times (T, B) for a cell that takes them, else None."""
    if not rnn.cell().elapsed_time:
        return None
    return (0.5 * normal(steps, batch, seed=seed + 1)).exp().detach()


def warm_state(rnn: RNN, batch: int, seed: int = 50) -> tuple[Tensor, ...]:
    """States in mid-sequence: those that the cell itself comes to."""
    x = normal(3, batch, rnn.input_size, seed=seed)
    with torch.no_grad():
        states = as_tuple(rnn(x, None, elapsed(rnn, 3, batch, seed))[1])
    return tuple(
        s.detach().clone().requires_grad_(s.is_floating_point() or s.is_complex()) for s in states
    )


def as_tuple(state: Any) -> tuple[Tensor, ...]:
    """A state in either form as a tuple."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def as_given(states: tuple[Tensor, ...]) -> Any:
    """A tuple of states as users give it."""
    return states[0] if len(states) == 1 else states


def variants(cell: str | type[GatedCell]) -> Iterator[dict[str, Any]]:
    """The options to test a cell with: its defaults, then every other choice of each option."""
    yield {}
    for name, spec in option_specs(cell_class(cell)).items():
        choices = (True, False) if isinstance(spec.default, bool) else spec.choices
        yield from ({name: choice} for choice in choices if choice != spec.default)
