"""Strongly typed cells: gates and content read inputs only, and the state enters by averages."""

from typing import Any

from torch import Tensor, sigmoid, tanh
from torch.nn.functional import linear

from cellzoo.cells import Extra, Gate, GatedCell, PreActivations, State, recur, register_cell


@register_cell("t_rnn")
class TRNN(GatedCell):
    """A strongly typed simple recurrent network.

        z = W_z x + b_z      f = σ(W_f x + b_f)
        h' = f ⊙ h + (1 − f) ⊙ z

    The paper has no b_z.
    """

    paper = "Balduzzi & Ghifary 2016, arXiv:1602.02218"
    reference = "secondary source"
    gates = {"z": Gate(state="none"), "f": Gate(state="none")}
    keep = {"f": +1}
    linear = True

    def update(self, a: PreActivations, s: Any) -> Tensor:
        f = sigmoid(a.f)
        return recur(s.h, f, (1 - f) * a.z)


class OfTwoInputs(GatedCell):
    """A cell with gates that read the input x and the previous input y, which is 0 at first.

    The state `previous` is V y of all gates, (B, 3·H). In this way V y too is computed for a whole
    sequence at once, and the width of the state does not depend on the input size.
    """

    paper = "Balduzzi & Ghifary 2016, arXiv:1602.02218"
    reference = "secondary source"
    gates = {gate: Gate(state="none") for gate in "zfo"}
    extra = {"weight_previous": Extra("fused_size", "input_size")}
    keep = {"f": +1}
    linear = True

    def project(self, x: Tensor) -> dict[str, Tensor]:
        return {"all": self.project_gates(x), "next": linear(x, self.weight_previous)}

    def both(self, a: PreActivations, s: Any) -> tuple[Tensor, ...]:
        """Return the new `previous`, and z, f and o, which read both inputs."""
        previous = recur(s.previous, None, a.x.next)
        z, f, o = self.split(a.x.all + s.previous)
        return previous, z, sigmoid(f), tanh(o)


@register_cell("t_gru")
class TGRU(OfTwoInputs):
    """A strongly typed gated recurrent unit; y is the previous input, V `weight_previous`.

    z = W_z x + V_z y + b_z      f = σ(W_f x + V_f y + b_f)      o = tanh(W_o x + V_o y + b_o)
    h' = f ⊙ h + z ⊙ o
    """

    states = {"h": State(), "previous": State("fused_size")}

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        previous, z, f, o = self.both(a, s)
        return recur(s.h, f, z * o), previous


@register_cell("t_lstm")
class TLSTM(OfTwoInputs):
    """A strongly typed LSTM; y is the previous input, V `weight_previous`.

    z = W_z x + V_z y + b_z      f = σ(W_f x + V_f y + b_f)      o = tanh(W_o x + V_o y + b_o)
    c' = f ⊙ c + (1 − f) ⊙ z      output h = o ⊙ c'
    """

    states = {"c": State(), "previous": State("fused_size")}

    def update(self, a: PreActivations, s: Any) -> tuple[tuple[Tensor, Tensor], Tensor]:
        previous, z, f, o = self.both(a, s)
        c = recur(s.c, f, (1 - f) * z)
        return (c, previous), o * c
