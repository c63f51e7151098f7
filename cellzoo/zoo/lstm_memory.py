"""LSTMs that differ in the use of the cell state or of the hidden state."""

from typing import Any

import torch
from torch import Tensor, sigmoid, tanh
from torch.nn.functional import linear

from cellzoo.cells import Extra, Gate, GatedCell, PreActivations, register_cell
from cellzoo.zoo.fitted import FittedInput
from cellzoo.zoo.lstm_variants import PeepholeLSTM


@register_cell("wmc_lstm")
class WorkingMemoryLSTM(GatedCell):
    """An LSTM with working memory connections: the gates see a squashed projection of c.

        i = σ(W_i x + U_i h + tanh(V_i c) + b_i)    f = σ(W_f x + U_f h + tanh(V_f c) + b_f)
        c' = f ⊙ c + i ⊙ tanh(W_g x + U_g h + b_g)
        o = σ(W_o x + U_o h + tanh(V_o c') + b_o)   h' = o ⊙ tanh(c')

    V are `weight_ci`, `weight_cf`, `weight_co`; the output gate sees the new c.
    """

    paper = "Landi et al. 2021, arXiv:2109.00020"
    reference = "secondary source"
    gates = ("i", "f", "g", "o")
    states = ("h", "c")
    extra = {f"weight_c{gate}": Extra("hidden_size", "hidden_size") for gate in "ifo"}
    keep = {"f": +1}
    write = {"i": +1}

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        i = sigmoid(a.i + tanh(self.product("weight_ci", s.c)))
        f = sigmoid(a.f + tanh(self.product("weight_cf", s.c)))
        c = f * s.c + i * tanh(a.g)
        return sigmoid(a.o + tanh(self.product("weight_co", c))) * tanh(c), c


@register_cell("mc_lstm")
class MemoryControllerLSTM(GatedCell):
    """An LSTM that reads its memory twice: v for its own gates, h for its output alone.

    (f, i, o, m) = σ(W x + U v + b)      n = tanh(W_n x + U_n v + b_n)
    c' = f ⊙ c + i ⊙ n      v' = m ⊙ tanh(c')      output h = o ⊙ tanh(c')
    """

    paper = "Memory Controller LSTM, Intel, NIPS 2017 workshop (Sequence-Modeling-NIPS-2017.pdf)"
    reference = "secondary source"
    gates = {gate: Gate(of="v") for gate in "fiomn"}
    states = ("v", "c")
    keep = {"f": +1}
    write = {"i": +1}

    def update(self, a: PreActivations, s: Any) -> tuple[tuple[Tensor, Tensor], Tensor]:
        c = sigmoid(a.f) * s.c + sigmoid(a.i) * tanh(a.n)
        read = tanh(c)
        return (sigmoid(a.m) * read, c), sigmoid(a.o) * read


@register_cell("multiplicative_lstm")
class MultiplicativeLSTM(GatedCell):
    """An LSTM with gates that see h through a product with x, so that x selects the transition.

        m = (V x) ⊙ (R h)
        i, f, g, o as in `lstm`, with m for h:  c' = f ⊙ c + i ⊙ g      h' = o ⊙ tanh(c')

    V and R are `weight_mx` and `weight_mh`, without biases. The equations are those of the paper's
    later versions and of the authors' code. The first version had no tanh in g, and had o inside
    the tanh of h'.
    """

    paper = "Krause et al. 2016, arXiv:1609.07959"
    reference = "author's code"
    gates = {gate: Gate(late=True) for gate in "ifgo"}
    states = ("h", "c")
    extra = {
        "weight_mx": Extra("hidden_size", "input_size"),
        "weight_mh": Extra("hidden_size", "hidden_size"),
    }
    keep = {"f": +1}
    write = {"i": +1}

    def project(self, x: Tensor) -> dict[str, Tensor]:
        return {"all": self.project_gates(x), "m": linear(x, self.weight_mx)}

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        m = a.x.m * self.product("weight_mh", s.h)
        i, f, g, o = self.product(("i", "f", "g", "o"), m)
        c = sigmoid(a.f + f) * s.c + sigmoid(a.i + i) * tanh(a.g + g)
        return sigmoid(a.o + o) * tanh(c), c


@register_cell("residual_lstm")
class ResidualLSTM(PeepholeLSTM, FittedInput):
    """An LSTM with a shortcut from the layer's input to its output, under the output gate.

        i, f, o with peepholes and c' as in `peephole_lstm`
        h' = o ⊙ (W_p tanh(c') + W_s x)

    W_p is `weight_p`, the projection of the cell state. W_s is `weight_fit`, or the identity where
    the input is as wide as the state, as the paper allows.
    """

    paper = "Kim, El-Khamy, Lee 2017, arXiv:1701.03360"
    reference = "secondary source"

    @property
    def extra(self) -> dict[str, Extra]:
        projection = {"weight_p": Extra("hidden_size", "hidden_size")}
        return super().extra | projection | FittedInput.extra

    def project(self, x: Tensor) -> dict[str, Tensor]:
        return {"all": self.project_gates(x), "shortcut": self.fitted(x)}

    def read(self, a: PreActivations, c: Tensor) -> Tensor:
        return self.product("weight_p", tanh(c)) + a.x.shortcut


@register_cell("nested_lstm")
class NestedLSTM(GatedCell):
    """An LSTM with another LSTM inside, which keeps the cell state.

        i, f, g, o as in `lstm`;  X = i ⊙ g;  H = f ⊙ c
        (I, F, O) = σ(V (X, H) + d)      G = tanh(V_G (X, H) + d_G)
        m' = F ⊙ m + I ⊙ G      c' = O ⊙ tanh(m')      h' = o ⊙ tanh(c')

    m is the state `inner`, the inner cell state. The rows of V are the gates `inner_i` to
    `inner_o`; its columns are X, then H.
    """

    paper = "Moniz & Krueger 2018, arXiv:1801.10308"
    reference = "secondary source"
    gates = {
        **{gate: Gate() for gate in "ifgo"},
        **{f"inner_{gate}": Gate(x="none", of=("g", "c"), late=True) for gate in "ifgo"},
    }
    states = ("h", "c", "inner")
    keep = {"f": +1, "inner_f": +1}
    write = {"i": +1, "inner_i": +1}

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor, Tensor]:
        outer = torch.cat([sigmoid(a.i) * tanh(a.g), sigmoid(a.f) * s.c], -1)
        i, f, g, o = self.product(("inner_i", "inner_f", "inner_g", "inner_o"), outer)
        inner = sigmoid(f) * s.inner + sigmoid(i) * tanh(g)
        c = sigmoid(o) * tanh(inner)
        return sigmoid(a.o) * tanh(c), c, inner
