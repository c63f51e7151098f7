"""Recurrent networks with units that see each other only through the next layer."""

from typing import Any

import torch
from torch import Tensor, tanh
from torch.nn.functional import layer_norm, linear

from cellzoo.cells import Extra, Gate, GatedCell, PreActivations, option, register_cell


@register_cell("indrnn")
class IndRNN(GatedCell):
    """An independently recurrent network: h' = φ(W x + u ⊙ h + b), φ relu or tanh.

    With relu, a unit with |u| > 1 grows without bound. The paper draws u uniformly from
    [0, 2^(1/T)], where T is the number of steps; `init="paper"` uses [0, 1], the limit for
    infinite T.
    """

    paper = "Li et al. 2018, arXiv:1803.04831"
    reference = "secondary source"
    gates = {"n": Gate(state="diagonal")}
    biases = ("ih",)
    bounded = False
    paper_init = {
        "name": "torch",
        "blocks": {"weight_hh_diagonal": {"name": "uniform", "low": 0.0, "high": 1.0}},
    }
    nonlinearity: str = option("relu", "φ", choices=("relu", "tanh"))

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return torch.relu(a.n) if self.nonlinearity == "relu" else tanh(a.n)


@register_cell("layernorm_indrnn")
class LayerNormIndRNN(IndRNN):
    """An `indrnn` with layer normalisation of the input projection.

    h' = φ(LN(W x) ⊙ γ + u ⊙ h + b)
    """

    paper = "Li et al. 2018, arXiv:1803.04831; the norm: Ba et al. 2016, arXiv:1607.06450"
    extra = {"gain_ih": Extra("hidden_size", init=1.0)}
    nonlinearity: str = option("tanh", "φ", choices=("relu", "tanh"))
    eps: float = option(1e-5, "added to the variance")

    def project(self, x: Tensor) -> Tensor:
        wx = linear(x, self.weight_ih)
        return layer_norm(wx, [self.hidden_size], self.gain_ih, self.bias_ih, self.eps)
