"""Light gated recurrent units for speech recognition."""

from typing import Any

import torch
from torch import Tensor, sigmoid
from torch.nn.functional import batch_norm, layer_norm, linear

from cellzoo.cells import Extra, GatedCell, PreActivations, option, register_cell


@register_cell("ligru")
class LiGRU(GatedCell):
    """A light GRU: no reset gate, relu content, and batch normalisation of the input projection.

        z = σ(BN(W_z x) + U_z h)      n = relu(BN(W_n x) + U_n h)
        h' = z ⊙ h + (1 − z) ⊙ n
        BN(a) = γ ⊙ (a − mean) / √(var + eps) + b, over steps and batch together

    In training, mean and variance are those of the present sequence, and the buffers
    `running_mean` and `running_var` track them; in evaluation they are these buffers. γ is
    `gain_ih` and b is `bias_ih`. The states are not bounded: U can let the relu grow.
    """

    paper = "Ravanelli et al. 2018, arXiv:1803.10225"
    reference = "author's code"
    gates = ("n", "z")
    biases = ("ih",)
    extra = {"gain_ih": Extra("fused_size", init=1.0)}
    keep = {"z": +1}
    paper_init = {"name": "orthogonal", "blocks": {"bias_ih": "zeros"}}
    bounded = False
    momentum: float = option(0.05, "the weight of the newest statistics in the running statistics")
    eps: float = option(1e-5, "added to the variance")

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        like = self._like.detach()
        self.register_buffer("running_mean", like.new_zeros(self.fused_size))
        self.register_buffer("running_var", like.new_ones(self.fused_size))

    def project(self, x: Tensor) -> Tensor:
        wx = linear(x, self.weight_ih).to(self.weight_ih.dtype)
        return batch_norm(
            wx.flatten(0, -2), self.running_mean, self.running_var, self.gain_ih, self.bias_ih,
            self.training, self.momentum, self.eps,
        ).view_as(wx)  # fmt: skip

    def recurrent(self, a: PreActivations) -> Tensor:
        """Return U h of both gates, (B, 2·H)."""
        return a.h.all

    def update(self, a: PreActivations, s: Any) -> Tensor:
        n, z = self.split(a.x.all + self.recurrent(a))
        z = sigmoid(z)
        return z * s.h + (1 - z) * torch.relu(n)


@register_cell("sligru")
class SLiGRU(LiGRU):
    """A stabilised light GRU: a `ligru` with LN(U h) in place of U h.

    LN normalises all 2·H values together, without gain or bias.
    """

    paper = "Moumen & Parcollet 2023, arXiv:2302.10144"
    bounded = True

    def recurrent(self, a: PreActivations) -> Tensor:
        return layer_norm(a.h.all, [self.fused_size], eps=self.eps)
