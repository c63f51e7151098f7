"""The LSTM with peepholes, and what is left of it when one part is switched off."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, sigmoid, tanh

from cellzoo.cells.base import GatedCell
from cellzoo.cells.declare import Extra, Gate
from cellzoo.cells.preactivations import PreActivations
from cellzoo.cells.registry import register_cell


@register_cell("peephole_lstm")
class PeepholeLSTM(GatedCell):
    """LSTM whose gates see the cell state: i and f the old one, o the new one.

        i = σ(W_i x + U_i h + p_i ⊙ c + b_i)    f = σ(W_f x + U_f h + p_f ⊙ c + b_f)
        c' = f ⊙ c + i ⊙ tanh(W_g x + U_g h + b_g)
        o = σ(W_o x + U_o h + p_o ⊙ c' + b_o)   h' = o ⊙ tanh(c')

    With the tanh of the output, as Greff et al. 2015 (arXiv:1503.04069) have it: this is their
    vanilla LSTM. Their variants declare what they switch off.
    """

    paper = "Gers, Schraudolph, Schmidhuber 2002, JMLR 3:115"
    reference = "secondary source"
    gates: ClassVar[Any] = ("i", "f", "g", "o")  # a gate left out is 1
    states: ClassVar[Any] = ("h", "c")
    peepholes: ClassVar[str] = "ifo"
    coupled: ClassVar[bool] = False  # f = 1 − i
    squash_input: ClassVar[bool] = True
    squash_output: ClassVar[bool] = True
    keep: ClassVar[Any] = {"f": +1}
    write: ClassVar[Any] = {"i": +1}

    @property
    def extra(self) -> dict[str, Extra]:
        return {f"peephole_{g}": Extra("hidden_size") for g in self.peepholes if g in self.gates}

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, ...]:
        return self.activations(a, s.c)[:2]

    def activations(self, a: PreActivations, c: Tensor) -> tuple[Any, ...]:
        """The new h and c, and the gates i, f and o."""
        i = self.gate("i", a, c)
        f = 1 - i if self.coupled else self.gate("f", a, c)
        c = f * c + i * (tanh(a.g) if self.squash_input else a.g)
        o = self.gate("o", a, c)
        return o * self.read(a, c), c, i, f, o

    def read(self, a: PreActivations, c: Tensor) -> Tensor:
        """What the output gate lets through of the new c."""
        return tanh(c) if self.squash_output else c

    def gate(self, name: str, a: PreActivations, c: Tensor) -> Any:
        """A gate that sees c; 1 if it is switched off."""
        if name not in self.gates:
            return 1.0
        if name not in self.peepholes:
            return sigmoid(getattr(a, name))
        return sigmoid(getattr(a, name) + getattr(self, f"peephole_{name}") * c)


class GreffLSTM(PeepholeLSTM):
    """What the eight variants of the search space have in common."""

    paper = "Greff et al. 2015, arXiv:1503.04069"


@register_cell("greff_nig")
class NoInputGate(GreffLSTM):
    """`peephole_lstm` without its input gate: i = 1."""

    gates = ("f", "g", "o")
    write: ClassVar[Any] = {}


@register_cell("greff_nfg")
class NoForgetGate(GreffLSTM):
    """`peephole_lstm` without its forget gate: f = 1."""

    gates = ("i", "g", "o")
    keep: ClassVar[Any] = {}


@register_cell("greff_nog")
class NoOutputGate(GreffLSTM):
    """`peephole_lstm` without its output gate: o = 1."""

    gates = ("i", "f", "g")


@register_cell("greff_niaf")
class NoInputActivation(GreffLSTM):
    """`peephole_lstm` whose block input is linear: c' = f ⊙ c + i ⊙ (W_g x + U_g h + b_g)."""

    squash_input = False


@register_cell("greff_noaf")
class NoOutputActivation(GreffLSTM):
    """`peephole_lstm` whose output is linear in c: h' = o ⊙ c'."""

    squash_output = False


@register_cell("greff_np")
class NoPeepholes(GreffLSTM):
    """`peephole_lstm` without its peepholes: the equations of `lstm`."""

    peepholes = ""


@register_cell("greff_cifg")
class CoupledGates(GreffLSTM):
    """`peephole_lstm` whose forget gate is coupled to its input gate: f = 1 − i.

    Without the peepholes it is `cifg_lstm`.
    """

    gates = ("i", "g", "o")
    coupled = True
    keep: ClassVar[Any] = {"i": -1}
    write: ClassVar[Any] = {}


@register_cell("greff_fgr")
class FullGateRecurrence(GreffLSTM):
    """`peephole_lstm` whose gates read the old gates: nine more recurrent matrices.

        i' = σ(W_i x + U_i h + R_ii i + R_fi f + R_oi o + p_i ⊙ c + b_i)
        f' = σ(W_f x + U_f h + R_if i + R_ff f + R_of o + p_f ⊙ c + b_f)
        o' = σ(W_o x + U_o h + R_io i + R_fo f + R_oo o + p_o ⊙ c' + b_o)

    c' and h' are as they were; the block input reads h alone. The gates start at 0, which the
    paper leaves open.
    """

    gates = {
        "i": Gate(of=("h", "i", "f", "o")),
        "f": Gate(of=("h", "i", "f", "o")),
        "g": Gate(),
        "o": Gate(of=("h", "i", "f", "o")),
    }
    states = ("h", "c", "i", "f", "o")

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, ...]:
        return self.activations(a, s.c)


@register_cell("cifg_lstm")
class CIFGLSTM(CoupledGates):
    """LSTM with coupled input and forget gates, f = 1 − i: three gates, 3·H rows; no peepholes.

    i = σ(W_i x + U_i h + b_i)            o = σ(W_o x + U_o h + b_o)
    c' = (1 − i) ⊙ c + i ⊙ tanh(W_g x + U_g h + b_g)
    h' = o ⊙ tanh(c')
    """

    peepholes = ""
