"""What cells share whose papers want the input as wide as the state."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import linear

from cellzoo.cells.base import GatedCell
from cellzoo.cells.declare import Extra


class FittedInput(GatedCell):
    """A cell that takes the input x itself into the state: where I ≠ H, P x in its place."""

    extra: ClassVar[Any] = {"weight_fit": Extra("fitted_size", "input_size")}

    @property
    def fitted_size(self) -> int:
        """P's rows: 0, so that there is no P, where the input is as wide as the state."""
        return 0 if self.input_size == self.hidden_size else self.hidden_size

    def fitted(self, x: Tensor) -> Tensor:
        """x or P x, (…, H), for `project`."""
        if self.weight_fit is None:
            return x
        return linear(x, self.weight_fit).to(self.weight_fit.dtype)
