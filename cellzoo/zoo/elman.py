"""The simple recurrent network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cellzoo.cells.base import GatedCell
from cellzoo.cells.preactivations import PreActivations
from cellzoo.cells.registry import register_cell
from cellzoo.names.options import option


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
