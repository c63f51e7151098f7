"""The base class of cells with papers that require an input as wide as the state."""

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import linear

from cellzoo.cells import Extra, GatedCell


class FittedInput(GatedCell):
    """A cell that adds the input x itself to the state, or P x where I ≠ H; P is `weight_fit`."""

    extra: ClassVar[Any] = {"weight_fit": Extra("fitted_size", "input_size")}

    @property
    def fitted_size(self) -> int:
        """Return the number of rows of P: 0, so that there is no P, where I = H."""
        return 0 if self.input_size == self.hidden_size else self.hidden_size

    def fitted(self, x: Tensor) -> Tensor:
        """Return x or P x, (…, H), for use in `project`."""
        if self.weight_fit is None:
            return x
        return linear(x, self.weight_fit).to(self.weight_fit.dtype)
