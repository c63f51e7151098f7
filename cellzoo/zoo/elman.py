"""The simple recurrent network."""

from typing import Any

import torch
from torch import Tensor

from cellzoo.cells import GatedCell, PreActivations, option, register_cell


@register_cell("elman")
class Elman(GatedCell):
    """A simple recurrent network, equal to torch.nn.RNN: h' = φ(W x + U h + b), φ tanh or relu."""

    paper = "Elman 1990 (10.1207/s15516709cog1402_1)"
    reference = "memory"
    gates = ("n",)
    native = "rnn"
    nonlinearity: str = option("tanh", "φ", choices=("tanh", "relu"))

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return torch.tanh(a.n) if self.nonlinearity == "tanh" else torch.relu(a.n)
