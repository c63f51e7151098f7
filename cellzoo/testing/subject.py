"""The cell under test, and the random numbers of the tests."""

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
        options: the cell's options.
        reference: one step in NumPy, written from the paper; see `cellzoo.testing.reference`.
            None: there is no reference.
        parameters: a function that returns the paper's number of parameters for I and H.
        sizes: the (I, H) at which the reference and the number of parameters are compared.

    Examples:
        >>> from cellzoo.testing import Subject, run_check
        >>> from cellzoo.testing.declarations import parameter_count
        >>> subject = Subject("lstm", parameters=lambda i, h: 4 * h * (i + h + 2))
        >>> run_check(parameter_count, subject)
        >>> str(Subject("elman", {"nonlinearity": "relu"}))
        'elman nonlinearity=relu'
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
        """Return the first (I, H) that the cell accepts.

        Raises:
            ValueError: The cell accepts none; this is its error for the first size.
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
        """Return an RNN of this cell in float64, on the loop, in eval mode, randomly initialised.

        A parameter with an initial value of its own (a gain, a time constant) stays near it.

        Args:
            size: input size and hidden size; None: `self.size`.
            seed: the seed of the parameters.
            scale: the standard deviation of the other parameters.
            keywords: further arguments of `RNN`.
        """
        keywords = {"dtype": F64, "engine": "loop", **self.options, **keywords}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            rnn = RNN(self.cell, *(size or self.size), **keywords).eval()
            initialised = {
                name for name, extra in rnn.extra_parameters().items() if extra.init is not None
            }
            for name, parameter in rnn.named_parameters():
                noise = torch.randn_like(parameter)
                if name in initialised:
                    parameter.mul_(1 + 0.2 * noise).add_(0.01 * torch.randn_like(parameter))
                else:
                    parameter.copy_(scale * noise)
        return rnn


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return normal random numbers in float64 that require a gradient; `seed` determines them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=F64).requires_grad_()


def elapsed(rnn: RNN, steps: int, batch: int, seed: int = 0) -> Tensor | None:
    """Return random positive elapsed times (T, B), or None for a cell without elapsed time."""
    if not rnn.cell().elapsed_time:
        return None
    return (0.5 * normal(steps, batch, seed=seed + 1)).exp().detach()


def warm_state(rnn: RNN, batch: int, seed: int = 50) -> tuple[Tensor, ...]:
    """Return the states of the cell after three random time steps."""
    x = normal(3, batch, rnn.input_size, seed=seed)
    with torch.no_grad():
        states = as_tuple(rnn(x, None, elapsed(rnn, 3, batch, seed))[1])
    return tuple(
        s.detach().clone().requires_grad_(s.is_floating_point() or s.is_complex()) for s in states
    )


def as_tuple(state: Any) -> tuple[Tensor, ...]:
    """Return a state in either form as a tuple."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def as_given(states: tuple[Tensor, ...]) -> Any:
    """Return a tuple of states in the form that `RNN` takes: one state is a plain tensor."""
    return states[0] if len(states) == 1 else states


def variants(cell: str | type[GatedCell]) -> Iterator[dict[str, Any]]:
    """Yield the options of a cell's tests: the defaults, then every other choice of each option."""
    yield {}
    for name, spec in option_specs(cell_class(cell)).items():
        choices = (True, False) if isinstance(spec.default, bool) else spec.choices
        yield from ({name: choice} for choice in choices if choice != spec.default)
