"""Cells with a refine gate, which gives a saturated gate a gradient (Gu et al. 2020)."""

from typing import Any, ClassVar

from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Extra, Gate, GatedCell, PreActivations, register_cell


class Refined(GatedCell):
    """A cell with a gate `refine` that adjusts the gate that keeps the memory.

    The parameter `bias_u` starts at 0. With `init="paper"`, the uniform gate initialisation,
    σ(bias_u) is drawn uniformly from [1/H, 1 − 1/H], in place of a forget bias.
    """

    paper = "Gu et al. 2020, arXiv:1910.09890"
    extra: ClassVar[Any] = {"bias_u": Extra("hidden_size", init=0.0)}
    biases = ("ih",)
    paper_init: ClassVar[Any] = {"name": "torch", "blocks": {"bias_u": "uniform_gate"}}

    def refined(self, gate: Tensor, refine: Tensor) -> Tensor:
        """Return the effective gate, between g² and 1 − (1 − g)², from both pre-activations."""
        g, r = sigmoid(gate + self.bias_u), sigmoid(refine - self.bias_u)
        return r * (1 - (1 - g).square()) + (1 - r) * g.square()


@register_cell("ur_lstm")
class URLSTM(Refined):
    """An LSTM with uniform gate initialisation, a refine gate, and coupled input and forget gates.

        f = σ(W_f x + U_f h + b_f + u)      r = σ(W_r x + U_r h + b_r − u)
        F = r ⊙ (1 − (1 − f)²) + (1 − r) ⊙ f²
        c' = F ⊙ c + (1 − F) ⊙ tanh(W_g x + U_g h + b_g)
        h' = σ(W_o x + U_o h + b_o) ⊙ tanh(c')

    r is named `refine`, and u is `bias_u`: the paper's b_f. Here b_f and b_r are the biases of the
    linear maps. `init="paper"` draws σ(u) uniformly from [1/H, 1 − 1/H]. Other inits set u to 0, so
    that the cell is the paper's R-LSTM at the start.
    """

    reference = "secondary source"
    gates = ("f", "refine", "g", "o")
    states = ("h", "c")
    keep = {"f": +1}

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        f = self.refined(a.f, a.refine)
        c = f * s.c + (1 - f) * tanh(a.g)
        return sigmoid(a.o) * tanh(c), c


@register_cell("ur_gru")
class URGRU(Refined):
    """A `gru_v1` with uniform gate initialisation and a refine gate for the update gate.

        r = σ(W_r x + U_r h + b_r)      z = σ(W_z x + U_z h + b_z + u)
        e = σ(W_e x + U_e h + b_e − u)
        g = e ⊙ (1 − (1 − z)²) + (1 − e) ⊙ z²
        n = tanh(W_n x + U_n (r ⊙ h) + b_n)
        h' = (1 − g) ⊙ n + g ⊙ h

    e is named `refine`; u is `bias_u`, as in `ur_lstm`. The paper defines the refinement for any
    gate. Leaving the reset gate unrefined, before the product, is one interpretation.
    """

    reference = "memory"
    gates = {"r": Gate(), "z": Gate(), "refine": Gate(), "n": Gate(late=True)}
    keep = {"z": +1}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        z = self.refined(a.z, a.refine)
        n = tanh(a.n + self.product("n", sigmoid(a.r) * s.h))
        return (1 - z) * n + z * s.h
