"""Gated recurrent units."""

from __future__ import annotations

from typing import Any

from torch import Tensor, sigmoid, tanh

from cellzoo.cells.base import GatedCell, register_cell
from cellzoo.cells.declare import Gate
from cellzoo.cells.preactivations import PreActivations


@register_cell("gru")
class GRU(GatedCell):
    """Gated recurrent unit with the reset after the product, as torch.nn.GRU.

        r = σ(W_r x + U_r h + b_r)      z = σ(W_z x + U_z h + b_z)
        n = tanh(W_n x + b_n + r ⊙ (U_n h + d_n))
        h' = (1 − z) ⊙ n + z ⊙ h

    The other order, reset before the product, is `gru_v1`.
    """

    paper = "Cho et al. 2014, arXiv:1406.1078, reset after the product as in cuDNN"
    reference = "secondary source"
    gates = ("r", "z", "n")
    keep = {"z": +1}
    native = "gru"

    def update(self, a: PreActivations, s: Any) -> Tensor:
        z = sigmoid(a.z)
        n = tanh(a.x.n + sigmoid(a.r) * a.h.n)
        return (1 - z) * n + z * s.h


@register_cell("gru_v1")
class GRUv1(GatedCell):
    """Gated recurrent unit with the reset before the product, as published (arXiv's version 3).

    r = σ(W_r x + U_r h + b_r)      z = σ(W_z x + U_z h + b_z)
    n = tanh(W_n x + U_n (r ⊙ h) + b_n)
    h' = (1 − z) ⊙ n + z ⊙ h
    """

    paper = "Cho et al. 2014, arXiv:1406.1078"
    reference = "memory"
    gates = {"r": Gate(), "z": Gate(), "n": Gate(late=True)}
    keep = {"z": +1}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        z = sigmoid(a.z)
        n = tanh(a.n + self.product("n", sigmoid(a.r) * s.h))
        return (1 - z) * n + z * s.h
