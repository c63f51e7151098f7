"""The LSTM."""

from typing import Any

from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Extra, GatedCell, PreActivations, State, option, register_cell


@register_cell("lstm")
class LSTM(GatedCell):
    """A long short-term memory with a forget gate, equal to torch.nn.LSTM.

        i = σ(W_i x + U_i h + b_i)      f = σ(W_f x + U_f h + b_f)
        g = tanh(W_g x + U_g h + b_g)   o = σ(W_o x + U_o h + b_o)
        c' = f ⊙ c + i ⊙ g              h' = o ⊙ tanh(c')

    With `proj_size` P > 0 the output is projected: h' = W_r (o ⊙ tanh(c')), and h is (B, P)
    (Sak, Senior, Beaufays 2014, arXiv:1402.1128). W_r is `weight_hr`.
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
        if not 0 <= self.proj_size < self.hidden_size:  # as torch.nn requires
            raise ValueError(f"proj_size must be 0 or below hidden_size, not {self.proj_size}")
        return self.proj_size or self.hidden_size

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        c = sigmoid(a.f) * s.c + sigmoid(a.i) * tanh(a.g)
        h = sigmoid(a.o) * tanh(c)
        return self.product("weight_hr", h) if self.proj_size else h, c
