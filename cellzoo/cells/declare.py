"""The declarations of a cell's author: gates, states and extra parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gate:
    """The sources of a gate's pre-activation.

    Attributes:
        x: "full", a block of `weight_ih`; or "none".
        state: "full", a block of a recurrent weight; "diagonal", one weight per unit; "heads",
            a block-diagonal matrix of `heads` blocks; or "none".
        of: the operand of the recurrent block: a state (or a gate, for its width), or several of
            them concatenated. The blocks of one operand and kind are fused in one parameter:
            `weight_hh` for full blocks of h, else `weight_hh_<operand>_<kind>`.
        late: whether the product waits for another within the step. `update` then makes it with
            `self.product(gate, v)`, where v has the operand's width.
        width: the number of rows: a number or the name of an attribute of the cell.
        heads: the number of blocks for state="heads": a number or an attribute's name.

    Raises:
        ValueError: a source is unknown, or a late gate has no recurrent block.

    Example:
        >>> Gate(state="diagonal").late
        False
        >>> Gate(x="some")
        Traceback (most recent call last):
        ValueError: a gate's x is full or none, not 'some'
    """

    x: Literal["full", "none"] = "full"
    state: Literal["full", "diagonal", "heads", "none"] = "full"
    of: str | tuple[str, ...] = "h"
    late: bool = False
    width: int | str = "hidden_size"
    heads: int | str = 1

    def __post_init__(self) -> None:
        if self.x not in ("full", "none"):
            raise ValueError(f"a gate's x is full or none, not {self.x!r}")
        if self.state not in ("full", "diagonal", "heads", "none"):
            raise ValueError(f"a gate's state is full, diagonal, heads or none, not {self.state!r}")
        if self.late and self.state == "none":
            raise ValueError("a late gate has a recurrent block: its state cannot be none")


@dataclass(frozen=True)
class State:
    """The width, dtype and initial value of a state.

    Attributes:
        width: a number or the name of an attribute of the cell.
        dtype: None, the dtype of the parameters; "complex", the corresponding complex dtype; or a
            dtype.
        initial: the initial value of every element.
        positive: whether the state is above zero after any step, like a normaliser. Tests then
            draw positive values.

    Example:
        >>> State("order", initial=1.0)
        State(width='order', dtype=None, initial=1.0, positive=False)
    """

    width: int | str = "hidden_size"
    dtype: torch.dtype | Literal["complex"] | None = None
    initial: float = 0.0
    positive: bool = False


class Extra:
    """A parameter beside the fused ones.

    Args:
        shape: numbers or names of attributes of the cell. An extent of 0 omits the parameter.
        init: a constant to start from, or a function of the cell that returns the values and may
            read extra parameters declared before. None: the init scheme decides, as for the fused
            weights.
        weight_decay: whether the optimizer's weight decay acts on it.
        lr_factor: the factor of its learning rate.

    Example:
        >>> Extra("hidden_size", init=1.0, weight_decay=False).shape
        ('hidden_size',)
    """

    def __init__(
        self,
        *shape: int | str,
        init: float | Callable[[Any], Tensor] | None = None,
        weight_decay: bool = True,
        lr_factor: float = 1.0,
    ) -> None:
        self.shape = shape
        self.init = init
        self.weight_decay = weight_decay
        self.lr_factor = lr_factor

    @classmethod
    def uniform(cls, *shape: int | str, low: float, high: float) -> Extra:
        """Return a parameter that starts uniform between low and high under every scheme.

        Example:
            >>> Extra.uniform("hidden_size", low=-2.0, high=2.0).shape
            ('hidden_size',)
        """

        def draw(cell: Any) -> Tensor:
            return torch.empty([cell.width(extent) for extent in shape]).uniform_(low, high)

        return cls(*shape, init=draw)

    def start(self, cell: Any, parameter: Tensor) -> None:
        """Fill the parameter with its initial value; `init` must not be None."""
        value = self.init(cell) if callable(self.init) else self.init
        assert value is not None
        parameter.copy_(torch.as_tensor(value).expand_as(parameter))
