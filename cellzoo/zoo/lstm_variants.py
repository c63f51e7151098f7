"""The LSTM with peepholes, and its variants with one part switched off."""

from typing import Any, ClassVar

from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Extra, Gate, GatedCell, PreActivations, register_cell


@register_cell("peephole_lstm")
class PeepholeLSTM(GatedCell):
    """An LSTM with gates that see the cell state: i and f see the old one, o the new one.

        i = σ(W_i x + U_i h + p_i ⊙ c + b_i)    f = σ(W_f x + U_f h + p_f ⊙ c + b_f)
        c' = f ⊙ c + i ⊙ tanh(W_g x + U_g h + b_g)
        o = σ(W_o x + U_o h + p_o ⊙ c' + b_o)   h' = o ⊙ tanh(c')

    With the tanh of the output this is the vanilla LSTM of Greff et al. 2015 (arXiv:1503.04069).
    Their variants declare the parts that they switch off.
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
        """Return the new h and c, and the gates i, f and o."""
        i = self.gate("i", a, c)
        f = 1 - i if self.coupled else self.gate("f", a, c)
        c = f * c + i * (tanh(a.g) if self.squash_input else a.g)
        o = self.gate("o", a, c)
        return o * self.read(a, c), c, i, f, o

    def read(self, a: PreActivations, c: Tensor) -> Tensor:
        """Return the function of the new c that the output gate multiplies."""
        return tanh(c) if self.squash_output else c

    def gate(self, name: str, a: PreActivations, c: Tensor) -> Any:
        """Return a gate that sees c, or 1 if the gate is switched off."""
        if name not in self.gates:
            return 1.0
        if name not in self.peepholes:
            return sigmoid(getattr(a, name))
        return sigmoid(getattr(a, name) + getattr(self, f"peephole_{name}") * c)


class GreffLSTM(PeepholeLSTM):
    """The base class of the eight variants of the search space."""

    paper = "Greff et al. 2015, arXiv:1503.04069"


@register_cell("greff_nig")
class NoInputGate(GreffLSTM):
    """A `peephole_lstm` without an input gate: i = 1."""

    gates = ("f", "g", "o")
    write: ClassVar[Any] = {}


@register_cell("greff_nfg")
class NoForgetGate(GreffLSTM):
    """A `peephole_lstm` without a forget gate: f = 1."""

    gates = ("i", "g", "o")
    keep: ClassVar[Any] = {}


@register_cell("greff_nog")
class NoOutputGate(GreffLSTM):
    """A `peephole_lstm` without an output gate: o = 1."""

    gates = ("i", "f", "g")


@register_cell("greff_niaf")
class NoInputActivation(GreffLSTM):
    """A `peephole_lstm` with a linear block input: c' = f ⊙ c + i ⊙ (W_g x + U_g h + b_g)."""

    squash_input = False


@register_cell("greff_noaf")
class NoOutputActivation(GreffLSTM):
    """A `peephole_lstm` with an output that is linear in c: h' = o ⊙ c'."""

    squash_output = False


@register_cell("greff_np")
class NoPeepholes(GreffLSTM):
    """A `peephole_lstm` without peepholes: the equations of `lstm`."""

    peepholes = ""


@register_cell("greff_cifg")
class CoupledGates(GreffLSTM):
    """A `peephole_lstm` with a forget gate that is coupled to the input gate: f = 1 − i.

    Without peepholes the cell is `cifg_lstm`.
    """

    gates = ("i", "g", "o")
    coupled = True
    keep: ClassVar[Any] = {"i": -1}
    write: ClassVar[Any] = {}


@register_cell("greff_fgr")
class FullGateRecurrence(GreffLSTM):
    """A `peephole_lstm` with gates that read the old gates by nine more recurrent matrices.

        i' = σ(W_i x + U_i h + R_ii i + R_fi f + R_oi o + p_i ⊙ c + b_i)
        f' = σ(W_f x + U_f h + R_if i + R_ff f + R_of o + p_f ⊙ c + b_f)
        o' = σ(W_o x + U_o h + R_io i + R_fo f + R_oo o + p_o ⊙ c' + b_o)

    c' and h' are those of `peephole_lstm`; the block input reads h alone. The gates start at 0,
    which the paper leaves open.
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
    """An LSTM with coupled input and forget gates, f = 1 − i: 3·H rows, and no peepholes.

    i = σ(W_i x + U_i h + b_i)            o = σ(W_o x + U_o h + b_o)
    c' = (1 − i) ⊙ c + i ⊙ tanh(W_g x + U_g h + b_g)
    h' = o ⊙ tanh(c')
    """

    peepholes = ""
