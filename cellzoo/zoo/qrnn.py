"""The quasi-recurrent network."""

from typing import Any

from torch import Tensor, sigmoid, tanh
from torch.nn.functional import linear

from cellzoo.cells import (
    Extra,
    Gate,
    GatedCell,
    PreActivations,
    State,
    option,
    recur,
    register_cell,
)


@register_cell("qrnn")
class QRNN(GatedCell):
    """A quasi-recurrent network: gates by a convolution over the inputs, pooled by a recurrence.

        z = tanh(W_z x + V_z x₋ + b_z), and so f, o and i with σ; x₋ is the input before x
        f    c' = f ⊙ c + (1 − f) ⊙ z       the output is c'
        fo   c' = f ⊙ c + (1 − f) ⊙ z       the output is o ⊙ c'
        ifo  c' = f ⊙ c + i ⊙ z             the output is o ⊙ c'

    The filter spans `window` inputs, 1 or 2. The state `before` is V x₋, and 0 at the start. It
    has the same width in every layer, unlike x₋ itself.
    """

    paper = "Bradbury et al. 2016, arXiv:1611.01576"
    reference = "secondary source"
    keep = {"f": +1}
    linear = True
    pooling: str = option("fo", "the gates beside z", choices=("f", "fo", "ifo"))
    window: int = option(2, "the number of inputs that a gate sees", choices=(1, 2))

    @property
    def gates(self) -> dict[str, Gate]:
        return {gate: Gate(state="none") for gate in ("z", *self.pooling)}

    @property
    def states(self) -> dict[str, State]:
        return {"c": State()} | ({"before": State("fused_size")} if self.window == 2 else {})

    @property
    def extra(self) -> dict[str, Extra]:
        return {"weight_before": Extra("fused_size", "input_size")} if self.window == 2 else {}

    @property
    def write(self) -> dict[str, int]:
        return {"i": +1} if "i" in self.pooling else {}

    def project(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        if self.window == 1:
            return self.project_gates(x)
        return {"all": self.project_gates(x), "next": linear(x, self.weight_before)}

    def update(self, a: PreActivations, s: Any) -> tuple[tuple[Tensor, ...], Tensor]:
        total = a.x.all
        moved: tuple[Tensor, ...] = ()
        if self.window == 2:
            moved = (recur(s.before, None, a.x.next),)
            total = total + s.before
        gate = dict(zip(self.gates, self.split(total), strict=True))
        f = sigmoid(gate["f"])
        i = sigmoid(gate["i"]) if "i" in gate else 1 - f
        c = recur(s.c, f, i * tanh(gate["z"]))
        return (c, *moved), sigmoid(gate["o"]) * c if "o" in gate else c
