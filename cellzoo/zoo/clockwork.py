"""The clockwork network."""

from typing import Any

import torch
from torch import Tensor, tanh

from cellzoo.cells import PreActivations, State, option, register_cell
from cellzoo.cells.base import GatedCell, positive


@register_cell("clockwork_rnn")
class ClockworkRNN(GatedCell):
    """A network of modules, of which module i is updated at every 2^i-th step, i = 0, 1, …

        h'_i = tanh(Σ_{j ≥ i} U_ij h_j + W_i x + b_i)   where t mod 2^i = 0, else h_i

    A module sees itself and the slower modules. The first step is t = 0, which updates all
    modules. t is a state, so that the clock continues from one call to the next. The units are
    divided among `groups` modules in order, as evenly as possible, the fastest module first.
    """

    paper = "Koutník et al. 2014, arXiv:1402.3511"
    reference = "secondary source"
    gates = ("n",)
    states = {"h": State(), "t": State(1, torch.long)}
    biases = ("ih",)
    groups: int = option(4, "the number of modules")

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        units = torch.arange(self.hidden_size, device=self._like.device)
        module = units * positive("groups", self.groups) // self.hidden_size
        self.register_buffer("period", 2**module)

    def recurrent_weights(self) -> dict[str, Tensor]:
        sees = self.period.unsqueeze(0) >= self.period.unsqueeze(1)
        return {"weight_hh": self.weight_hh * sees}

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        return torch.where(s.t % self.period == 0, tanh(a.n), s.h), s.t + 1
