"""The LSTM and its published variants."""

from __future__ import annotations

from typing import Any

from torch import Tensor, sigmoid, tanh
from torch.nn.functional import layer_norm, linear

from cellzoo.cells.base import GatedCell, register_cell
from cellzoo.cells.declare import Extra, State
from cellzoo.cells.preactivations import PreActivations
from cellzoo.options import option


@register_cell("lstm")
class LSTM(GatedCell):
    """Long short-term memory with a forget gate, as torch.nn.LSTM.

        i = σ(W_i x + U_i h + b_i)      f = σ(W_f x + U_f h + b_f)
        g = tanh(W_g x + U_g h + b_g)   o = σ(W_o x + U_o h + b_o)
        c' = f ⊙ c + i ⊙ g              h' = o ⊙ tanh(c')

    With `proj_size` P > 0 the output is projected, h' = W_r (o ⊙ tanh(c')), h being (B, P)
    (Sak, Senior, Beaufays 2014, arXiv:1402.1128).
    """

    paper = "Hochreiter & Schmidhuber 1997; Gers et al. 2000 (10.1162/089976600300015015)"
    reference = "memory"
    gates = ("i", "f", "g", "o")
    states = {"h": State("output_size"), "c": State()}
    extra = {"weight_hr": Extra("proj_size", "hidden_size")}
    keep = {"f": +1}
    write = {"i": +1}
    native = "lstm"
    proj_size: int = option(0, "width of the projected output; 0: none")

    @property
    def output_size(self) -> int:
        if not 0 <= self.proj_size < self.hidden_size:  # as torch.nn has it
            raise ValueError(f"proj_size must be 0 or below hidden_size, not {self.proj_size}")
        return self.proj_size or self.hidden_size

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        c = sigmoid(a.f) * s.c + sigmoid(a.i) * tanh(a.g)
        h = sigmoid(a.o) * tanh(c)
        return self.product("weight_hr", h) if self.proj_size else h, c


@register_cell("peephole_lstm")
class PeepholeLSTM(GatedCell):
    """LSTM whose gates see the cell state: i and f the old one, o the new one.

        i = σ(W_i x + U_i h + p_i ⊙ c + b_i)    f = σ(W_f x + U_f h + p_f ⊙ c + b_f)
        c' = f ⊙ c + i ⊙ tanh(W_g x + U_g h + b_g)
        o = σ(W_o x + U_o h + p_o ⊙ c' + b_o)   h' = o ⊙ tanh(c')

    With the tanh of the output, as Greff et al. 2015 (arXiv:1503.04069) have it.
    """

    paper = "Gers, Schraudolph, Schmidhuber 2002, JMLR 3:115"
    reference = "memory"
    gates = ("i", "f", "g", "o")
    states = ("h", "c")
    extra = {f"peephole_{gate}": Extra("hidden_size") for gate in "ifo"}
    keep = {"f": +1}
    write = {"i": +1}

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        i = sigmoid(a.i + self.peephole_i * s.c)
        f = sigmoid(a.f + self.peephole_f * s.c)
        c = f * s.c + i * tanh(a.g)
        return sigmoid(a.o + self.peephole_o * c) * tanh(c), c


@register_cell("cifg_lstm")
class CIFGLSTM(GatedCell):
    """LSTM with coupled input and forget gates, f = 1 − i: three gates, 3·H rows; no peepholes.

    i = σ(W_i x + U_i h + b_i)            o = σ(W_o x + U_o h + b_o)
    c' = (1 − i) ⊙ c + i ⊙ tanh(W_g x + U_g h + b_g)
    h' = o ⊙ tanh(c')
    """

    paper = "Greff et al. 2015, arXiv:1503.04069"
    reference = "memory"
    gates = ("i", "g", "o")
    states = ("h", "c")
    keep = {"i": -1}

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        i = sigmoid(a.i)
        c = (1 - i) * s.c + i * tanh(a.g)
        return sigmoid(a.o) * tanh(c), c


@register_cell("layernorm_lstm")
class LayerNormLSTM(GatedCell):
    """LSTM with layer normalisation over all 4·H of each projection, and of c for the output.

        (i, f, g, o) = LN(W x) ⊙ γ_x + LN(U h) ⊙ γ_h + b
        c' = σ(f) ⊙ c + σ(i) ⊙ tanh(g)
        h' = σ(o) ⊙ tanh(LN(c') ⊙ γ_c + β_c)

    The paper's β_1, β_2 and b act by their sum alone, so there is one bias: bias_ih. The c that
    is carried on is not normalised.
    """

    paper = "Ba, Kiros, Hinton 2016, arXiv:1607.06450"
    reference = "memory"
    gates = ("i", "f", "g", "o")
    states = ("h", "c")
    biases = ("ih",)
    extra = {
        "gain_ih": Extra("fused_size", init=1.0),
        "gain_hh": Extra("fused_size", init=1.0),
        "gain_c": Extra("hidden_size", init=1.0),
        "bias_c": Extra("hidden_size", init=0.0),
    }
    keep = {"f": +1}
    write = {"i": +1}
    eps: float = option(1e-5, "added to the variance")

    def project(self, x: Tensor) -> Tensor:
        wx = linear(x, self.weight_ih)
        return layer_norm(wx, [self.fused_size], self.gain_ih, self.bias_ih, self.eps)

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        uh = layer_norm(a.h.all, [self.fused_size], self.gain_hh, None, self.eps)
        i, f, g, o = self.split(a.x.all + uh)
        c = sigmoid(f) * s.c + sigmoid(i) * tanh(g)
        normalised = layer_norm(c, [self.hidden_size], self.gain_c, self.bias_c, self.eps)
        return sigmoid(o) * tanh(normalised), c
