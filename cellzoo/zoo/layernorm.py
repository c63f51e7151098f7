"""Cells with layer normalisation (Ba, Kiros, Hinton 2016) in different places."""

from typing import Any

import torch
from torch import Tensor, sigmoid, tanh
from torch.nn.functional import layer_norm, linear

from cellzoo.cells import Extra, GatedCell, PreActivations, option, register_cell


@register_cell("layernorm_elman")
class LayerNormElman(GatedCell):
    """A simple recurrent network that normalises the sum of both projections over the H units.

        h' = tanh(LN(W x + U h) ⊙ γ + b)

    The bias comes after the norm, as in the paper's equation 4.
    """

    paper = "Ba, Kiros, Hinton 2016, arXiv:1607.06450"
    reference = "memory"
    gates = ("n",)
    biases = ("ih",)
    extra = {"gain": Extra("hidden_size", init=1.0)}
    eps: float = option(1e-5, "added to the variance")

    def project(self, x: Tensor) -> Tensor:
        return linear(x, self.weight_ih)

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return tanh(layer_norm(a.n, [self.hidden_size], self.gain, self.bias_ih, self.eps))


@register_cell("layernorm_gru")
class LayerNormGRU(GatedCell):
    """A GRU with the reset after the product, and with separate norms of both projections.

        (r, z) = σ(LN(W_rz x) ⊙ γ_x + LN(U_rz h) ⊙ γ_h + b)
        n = tanh(LN(W_n x) ⊙ γ_x + b_n + r ⊙ (LN(U_n h) ⊙ γ_h + d_n))
        h' = (1 − z) ⊙ n + z ⊙ h

    As in the paper's supplement, one norm covers the 2·H values of r and z, and another those of n.
    With `norm="all"` one norm covers all 3·H values, as in haste. The biases come after the norms;
    d_n is `bias_n`. A z near 1 keeps, as in `gru`; the paper swaps z and 1 − z.
    """

    paper = "Ba, Kiros, Hinton 2016, arXiv:1607.06450"
    reference = "author's code"
    gates = ("r", "z", "n")
    biases = ("ih",)
    extra = {
        "gain_ih": Extra("fused_size", init=1.0),
        "gain_hh": Extra("fused_size", init=1.0),
        "bias_n": Extra("hidden_size", init=0.0),
    }
    keep = {"z": +1}
    norm: str = option(
        "gates", "one norm for r and z and one for n, or one for all", choices=("gates", "all")
    )
    eps: float = option(1e-5, "added to the variance")

    def project(self, x: Tensor) -> Tensor:
        wx = self.normalised(linear(x, self.weight_ih)) * self.gain_ih
        return wx if self.bias_ih is None else wx + self.bias_ih

    def update(self, a: PreActivations, s: Any) -> Tensor:
        r, z, n = self.split(self.normalised(a.h.all) * self.gain_hh)
        z = sigmoid(a.x.z + z)
        n = tanh(a.x.n + sigmoid(a.x.r + r) * (n + self.bias_n))
        return (1 - z) * n + z * s.h

    def normalised(self, fused: Tensor) -> Tensor:
        """Return the projections of all gates, (…, 3·H), normalised by groups of gates."""
        sizes = [3] if self.norm == "all" else [2, 1]
        groups = fused.split([size * self.hidden_size for size in sizes], -1)
        return torch.cat([layer_norm(g, g.shape[-1:], eps=self.eps) for g in groups], -1)


@register_cell("layernorm_lstm")
class LayerNormLSTM(GatedCell):
    """An LSTM with layer normalisation of each projection, over all 4·H values, and of c.

        (i, f, g, o) = LN(W x) ⊙ γ_x + LN(U h) ⊙ γ_h + b
        c' = σ(f) ⊙ c + σ(i) ⊙ tanh(g)
        h' = σ(o) ⊙ tanh(LN(c') ⊙ γ_c + β_c)

    Only the sum of the paper's β_1, β_2 and b matters, so there is one bias, bias_ih. The norm of c
    affects the output alone: the next step sees c itself.
    """

    paper = "Ba, Kiros, Hinton 2016, arXiv:1607.06450"
    reference = "author's code"
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
