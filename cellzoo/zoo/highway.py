"""Cells with gated connections through depth."""

from typing import Any

import torch
from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Gate, PreActivations, option, register_cell
from cellzoo.cells.base import GatedCell, positive
from cellzoo.zoo.fitted import FittedInput


@register_cell("rhn")
class RHN(GatedCell):
    """A recurrent highway network: a step is `depth` highway layers, and the first layer sees x.

        s_0 = h;  for l = 1 … depth:
        n = tanh(W_n x [l = 1] + U_n,l s_{l−1} + b_n,l)
        t = σ(W_t x [l = 1] + U_t,l s_{l−1} + b_t,l)
        s_l = n ⊙ t + s_{l−1} ⊙ (1 − t);  h' = s_depth

    The gates are named n1, t1, n2, … . With `coupled=False` a carry gate
    c = σ(W_c x [l = 1] + U_c,l s_{l−1} + b_c,l) replaces 1 − t. `init="paper"` sets the biases of
    the transform gates to −2.
    """

    paper = "Zilly et al. 2017, arXiv:1607.03474"
    reference = "author's code"
    biases = ("hh",)
    paper_init = {"name": "torch", "forget_bias": 2.0}
    depth: int = option(3, "the recurrence depth: highway layers per step")
    coupled: bool = option(True, "carry by 1 − t, without a carry gate")

    def names(self, layer: int) -> tuple[str, ...]:
        """Return the names of the gates of one layer."""
        return tuple(f"{gate}{layer}" for gate in ("n", "t") + ("c",) * (not self.coupled))

    @property
    def layers(self) -> range:
        """Return the numbers of the layers."""
        return range(1, positive("depth", self.depth) + 1)

    @property
    def gates(self) -> dict[str, Gate]:
        deep = Gate(x="none", late=True)
        return {
            name: Gate() if layer == 1 else deep
            for layer in self.layers
            for name in self.names(layer)
        }

    @property
    def keep(self) -> dict[str, int]:
        if self.coupled:
            return {f"t{layer}": -1 for layer in self.layers}
        return {f"c{layer}": +1 for layer in self.layers}

    @property
    def write(self) -> dict[str, int]:
        return {} if self.coupled else {f"t{layer}": +1 for layer in self.layers}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        h: Tensor = s.h
        for layer in self.layers:
            names = self.names(layer)
            parts = [getattr(a, n) for n in names] if layer == 1 else self.product(names, h)
            t = sigmoid(parts[1])
            carry = 1 - t if self.coupled else sigmoid(parts[2])
            h = tanh(parts[0]) * t + h * carry
        return h


@register_cell("intersection_rnn")
class IntersectionRNN(FittedInput):
    """An intersection network (+RNN): one gate carries h through time, another x through depth.

        y = relu(W_y x + U_y h + b_y)           n = tanh(W_n x + U_n h + b_n)
        g^y = σ(W_gy x + U_gy h + b_gy)         g^h = σ(W_gh x + U_gh h + b_gh)
        output = g^y ⊙ x + (1 − g^y) ⊙ y        h' = g^h ⊙ h + (1 − g^h) ⊙ n

    The gates are named y, n, gy and gh. The paper's x is as wide as h. Otherwise the output has P x
    in place of x, and the gates see x itself. `init="paper"` sets b_gh and b_gy to 1.
    """

    paper = "Collins, Sohl-Dickstein, Sussillo 2017, arXiv:1611.09913"
    reference = "author's code"
    gates = ("y", "n", "gy", "gh")
    biases = ("ih",)
    keep = {"gh": +1}
    paper_init = {
        "name": "torch",
        "blocks": {"bias_ih": {gate: {"name": "constant", "value": 1.0} for gate in ("gy", "gh")}},
    }

    def project(self, x: Tensor) -> dict[str, Tensor]:
        return {"all": self.project_gates(x), "carried": self.fitted(x)}

    def update(self, a: PreActivations, s: Any) -> tuple[tuple[Tensor], Tensor]:
        gy, gh = sigmoid(a.gy), sigmoid(a.gh)
        output = gy * a.x.carried + (1 - gy) * torch.relu(a.y)
        return (gh * s.h + (1 - gh) * tanh(a.n),), output
