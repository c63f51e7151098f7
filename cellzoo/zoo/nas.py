"""A cell from neural architecture search."""

from typing import Any

from torch import Tensor, relu, sigmoid, tanh

from cellzoo.cells import GatedCell, PreActivations, register_cell


@register_cell("nas")
class NASCell(GatedCell):
    """A cell from neural architecture search for language modelling.

        a_k = W_k x + U_k h + b_k,  k = 0 … 7
        l = tanh(σ(a_0) ⊙ relu(a_1))      m = tanh(σ(a_2) + relu(W_3 x ⊙ (U_3 h + b_3)))
        p = tanh(tanh(a_4) ⊙ σ(a_5))      q = σ(tanh(a_6) + σ(a_7))
        c' = tanh(l + c) ⊙ m      h' = tanh(c' ⊙ tanh(p + q))

    The a_k are the gates `a0` to `a7`. As in TensorFlow's NASCell, the fourth gate multiplies the
    two projections, and the bias is the recurrent one.
    """

    paper = "Zoph & Le 2017, arXiv:1611.01578"
    reference = "secondary source"
    gates = tuple(f"a{k}" for k in range(8))
    states = ("h", "c")
    biases = ("hh",)

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        first = tanh(sigmoid(a.a0) * relu(a.a1))
        second = tanh(sigmoid(a.a2) + relu(a.x.a3 * a.h.a3))
        third = tanh(tanh(a.a4) * sigmoid(a.a5))
        fourth = sigmoid(tanh(a.a6) + sigmoid(a.a7))
        c = tanh(first + s.c) * second
        return tanh(c * tanh(third + fourth)), c
