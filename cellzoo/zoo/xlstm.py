"""The cells of the extended LSTM: exponential gates, and a matrix memory."""

import math
from typing import Any

from torch import Tensor, exp, maximum, sigmoid, tanh
from torch.nn.functional import logsigmoid

from cellzoo.cells import Gate, GatedCell, PreActivations, State, option, register_cell


@register_cell("slstm")
class SLSTM(GatedCell):
    """A scalar memory LSTM with exponential gates, a normaliser n and a stabiliser m.

        i, f, z, o = W x + U h + b,  U block-diagonal in `heads` heads
        m' = max(log F + m, i)      I = exp(i − m')      F' = exp(log F + m − m')
        c' = F' ⊙ c + I ⊙ tanh(z)      n' = F' ⊙ n + I      h' = σ(o) ⊙ c' / n'

    log F is log σ(f), or f itself with `forget="exp"`: the paper allows both. m starts at −∞, so
    that m' = i at the first step, as in the authors' code.
    """

    paper = "Beck et al. 2024, arXiv:2405.04517"
    reference = "author's code"
    gates = {gate: Gate(state="heads", heads="heads") for gate in "ifzo"}
    states = {
        "h": State(),
        "c": State(),
        "n": State(positive=True),
        "m": State(initial=-math.inf),
    }
    keep = {"f": +1}
    write = {"i": +1}
    heads: int = option(1, "blocks of the recurrent matrices; a divisor of hidden_size")
    forget: str = option("sigmoid", "the forget gate's function", choices=("sigmoid", "exp"))

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        log_f = (logsigmoid(a.f) if self.forget == "sigmoid" else a.f) + s.m
        m = maximum(log_f, a.i)
        i, f = exp(a.i - m), exp(log_f - m)
        c = f * s.c + i * tanh(a.z)
        n = f * s.n + i
        return sigmoid(a.o) * c / n, c, n, m


@register_cell("mlstm")
class MLSTM(GatedCell):
    """A matrix memory LSTM: C stores values under keys, and only C, n and m are recurrent.

        q, k, v, o = W x + b (H each);  i, f = W x + b (one a head);  k scaled by 1 / √D
        m' = max(log F + m, i)      I = exp(i − m')      F' = exp(log F + m − m')
        C' = F' C + I v kᵀ      n' = F' n + I k
        h' = σ(o) ⊙ (C' q) / max(|n'ᵀ q|, exp(−m'))

    D = H / `heads` is the size of a head. log F is log σ(f), or f itself with `forget="exp"`. The
    state `c` holds C of all heads row by row, (B, heads · D · D).
    """

    paper = "Beck et al. 2024, arXiv:2405.04517"
    reference = "author's code"
    gates = {
        "i": Gate(state="none", width="heads"),
        "f": Gate(state="none", width="heads"),
        **{gate: Gate(state="none") for gate in "qkvo"},
    }
    states = {"c": State("memory_size"), "n": State(), "m": State("heads")}
    keep = {"f": +1}
    write = {"i": +1}
    heads: int = option(1, "the number of memories; a divisor of hidden_size")
    forget: str = option("sigmoid", "the forget gate's function", choices=("sigmoid", "exp"))

    @property
    def head_size(self) -> int:
        if self.heads < 1 or self.hidden_size % self.heads:
            raise ValueError(f"heads must divide hidden_size {self.hidden_size}, not {self.heads}")
        return self.hidden_size // self.heads

    @property
    def memory_size(self) -> int:
        return self.hidden_size * self.head_size

    def update(self, a: PreActivations, s: Any) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        heads = (self.heads, self.head_size)
        q, k, v = (part.unflatten(-1, heads) for part in (a.q, a.k, a.v))
        k = k / math.sqrt(self.head_size)
        log_f = (logsigmoid(a.f) if self.forget == "sigmoid" else a.f) + s.m
        m = maximum(log_f, a.i)
        i, f = exp(a.i - m).unsqueeze(-1), exp(log_f - m).unsqueeze(-1)
        n = f * s.n.unflatten(-1, heads) + i * k
        old = s.c.unflatten(-1, (*heads, self.head_size))
        c = f.unsqueeze(-1) * old + (i * v).unsqueeze(-1) * k.unsqueeze(-2)
        read = (c * q.unsqueeze(-2)).sum(-1)
        scale = maximum((n * q).sum(-1).abs(), exp(-m)).unsqueeze(-1)
        return (c.flatten(1), n.flatten(1), m), sigmoid(a.o) * (read / scale).flatten(1)
