"""Networks with random recurrent weights that are never trained."""

from typing import Any

import torch
from torch import Tensor, tanh

from cellzoo.cells import GatedCell, PreActivations, option, register_cell


@register_cell("esn")
class ESN(GatedCell):
    """An echo state network with leaky units.

        h' = (1 − λ) h + λ tanh(W x + R h + b)

    R is the buffer `reservoir`, which is drawn when the cell is built. Each connection exists with
    probability `connectivity` and has a weight uniform in ±1; all are scaled to
    `spectral_radius`. The paper fixes W and b too. Here they are trained unless you freeze them.
    """

    paper = "Jaeger 2001, GMD Report 148; leaky units: Jaeger et al. 2007, Neural Networks 20"
    reference = "memory"
    gates = ("n",)
    biases = ("ih",)
    derived = ("weight_hh",)
    leak: float = option(1.0, "λ, the share that is new")
    connectivity: float = option(0.1, "the probability of a connection")
    spectral_radius: float = option(0.9, "the greatest absolute eigenvalue of R")

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        size = self.hidden_size
        weights = torch.empty(size, size, dtype=torch.float64).uniform_(-1, 1)
        weights = weights * (torch.rand(size, size) < self.connectivity)
        radius = torch.linalg.eigvals(weights).abs().max().item()
        scale = self.spectral_radius / radius if radius > 1e-6 else 1.0  # 0 for a nilpotent matrix
        self.register_buffer("reservoir", (scale * weights).to(self._like))

    def recurrent_weights(self) -> dict[str, Tensor]:
        return {"weight_hh": self.reservoir}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return (1 - self.leak) * s.h + self.leak * tanh(a.n)
