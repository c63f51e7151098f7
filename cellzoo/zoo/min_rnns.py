"""Gated units with gates that see the input alone: minimal versions of the GRU and the LSTM."""

from typing import Any

import torch
from torch import Tensor, sigmoid
from torch.nn.functional import softplus

from cellzoo.cells import Gate, GatedCell, PreActivations, option, recur, register_cell


def positive(a: Tensor) -> Tensor:
    """Return g(a): a + 1/2 where a ≥ 0, else σ(a). It is continuous and positive."""
    return torch.where(a >= 0, a + 0.5, sigmoid(a))


@register_cell("mingru")
class MinGRU(GatedCell):
    """A minimal gated recurrent unit, in which no gate reads the state.

        z = σ(W_z x + b_z)      h' = (1 − z) ⊙ h + z ⊙ n      n = W_n x + b_n

    With `candidate="positive"`, n = g(W_n x + b_n) as in the paper's form in log space
    (appendix B): g(a) is a + 1/2 where a ≥ 0, else σ(a). The first state is 0.
    """

    paper = "Feng et al. 2024, arXiv:2410.01201"
    reference = "secondary source"
    gates = {"z": Gate(state="none"), "n": Gate(state="none")}
    keep = {"z": -1}
    linear = True
    candidate: str = option("linear", "n, as a function of the sum", choices=("linear", "positive"))

    def update(self, a: PreActivations, s: Any) -> Tensor:
        z = sigmoid(a.z)
        n = a.n if self.candidate == "linear" else positive(a.n)
        return recur(s.h, 1 - z, z * n)


@register_cell("minlstm")
class MinLSTM(GatedCell):
    """A minimal LSTM: no gate reads the state, and the shares of keeping and writing sum to 1.

        f = σ(W_f x + b_f)      i = σ(W_i x + b_i)      n = W_n x + b_n
        h' = f / (f + i) ⊙ h + i / (f + i) ⊙ n

    With `candidate="positive"`, n = g(W_n x + b_n) as in `mingru`. The shares are computed as
    σ(log f − log i), which is exact even where both gates round to 0.
    """

    paper = "Feng et al. 2024, arXiv:2410.01201"
    reference = "memory"
    gates = {"f": Gate(state="none"), "i": Gate(state="none"), "n": Gate(state="none")}
    keep = {"f": +1}
    write = {"i": +1}
    linear = True
    candidate: str = option("linear", "n, as a function of the sum", choices=("linear", "positive"))

    def update(self, a: PreActivations, s: Any) -> Tensor:
        kept = sigmoid(softplus(-a.i) - softplus(-a.f))
        n = a.n if self.candidate == "linear" else positive(a.n)
        return recur(s.h, kept, (1 - kept) * n)
