"""Gated recurrent units, and cells that change or drop one of their gates."""

from typing import Any, ClassVar

from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Extra, Gate, GatedCell, PreActivations, option, register_cell


@register_cell("gru")
class GRU(GatedCell):
    """A gated recurrent unit with the reset after the product, equal to torch.nn.GRU.

        r = σ(W_r x + U_r h + b_r)      z = σ(W_z x + U_z h + b_z)
        n = tanh(W_n x + b_n + r ⊙ (U_n h + d_n))
        h' = (1 − z) ⊙ n + z ⊙ h

    In `gru_v1` the reset comes before the product.
    """

    paper = "Cho et al. 2014, arXiv:1406.1078, reset after the product as in cuDNN"
    reference = "secondary source"
    gates = ("r", "z", "n")
    keep = {"z": +1}
    native = "gru"

    def update(self, a: PreActivations, s: Any) -> Tensor:
        z = sigmoid(a.z)
        n = tanh(a.x.n + sigmoid(a.r) * a.h.n)
        return (1 - z) * n + z * s.h


@register_cell("gru_v1")
class GRUv1(GatedCell):
    """A gated recurrent unit with the reset before the product, as in version 3 on arXiv.

    r = σ(W_r x + U_r h + b_r)      z = σ(W_z x + U_z h + b_z)
    n = tanh(W_n x + U_n (r ⊙ h) + b_n)
    h' = (1 − z) ⊙ n + z ⊙ h
    """

    paper = "Cho et al. 2014, arXiv:1406.1078"
    reference = "memory"
    gates = {"r": Gate(), "z": Gate(), "n": Gate(late=True)}
    keep = {"z": +1}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        z = sigmoid(a.z)
        n = tanh(a.n + self.product("n", sigmoid(a.r) * s.h))
        return (1 - z) * n + z * s.h


@register_cell("gru1")
class GRU1(GatedCell):
    """A `gru_v1` with gates that do not see the input, the first of three reductions.

        r = σ(U_r h + b_r)      z = σ(U_z h + b_z)
        n = tanh(W_n x + U_n (r ⊙ h) + b_n)
        h' = (1 − z) ⊙ h + z ⊙ n

    `gru2` drops the gates' biases too. `gru3` drops everything but the gates' biases. As in the
    paper, and unlike in `gru`, a large z overwrites.
    """

    paper = "Dey & Salem 2017, arXiv:1701.05923"
    reference = "memory"
    gates = {"r": Gate(x="none"), "z": Gate(x="none"), "n": Gate(late=True)}
    biases: ClassVar[tuple[str, ...]] = ("hh",)
    keep = {"z": -1}

    def gate(self, a: PreActivations, name: str) -> Tensor:
        """Return the gate with that name."""
        return sigmoid(getattr(a, name))

    def update(self, a: PreActivations, s: Any) -> Tensor:
        z = self.gate(a, "z")
        n = tanh(a.n + self.product("n", self.gate(a, "r") * s.h))
        return (1 - z) * s.h + z * n


@register_cell("gru2")
class GRU2(GRU1):
    """A `gru1` with gates without biases: r = σ(U_r h), z = σ(U_z h)."""

    biases = ("ih",)  # for n alone: the gates have no rows from x


@register_cell("gru3")
class GRU3(GRU1):
    """A `gru1` with learned constants for gates: r = σ(b_r), z = σ(b_z)."""

    gates = {"n": Gate(late=True)}
    extra = {"bias_r": Extra("hidden_size"), "bias_z": Extra("hidden_size")}
    biases = ("ih",)
    keep = {}

    def gate(self, a: PreActivations, name: str) -> Tensor:
        return sigmoid(getattr(self, f"bias_{name}"))


@register_cell("miru1")
class MiRU1(GatedCell):
    """A minion recurrent unit with a reset gate, and a coefficient λ for an update gate.

    r = σ(W_r x + U_r h + b_r)
    n = tanh(W_n x + U_n (r ⊙ h) + b_n)
    h' = λ h + (1 − λ) n
    """

    paper = "Zyarah & Kudithipudi 2025, arXiv:2503.06175"
    reference = "secondary source"
    gates = {"r": Gate(), "n": Gate(late=True)}
    biases = ("ih",)
    update_coefficient: float = option(0.5, "λ, the share of h that is kept")

    def update(self, a: PreActivations, s: Any) -> Tensor:
        n = tanh(a.n + self.product("n", sigmoid(a.r) * s.h))
        return self.update_coefficient * s.h + (1 - self.update_coefficient) * n


@register_cell("miru2")
class MiRU2(GatedCell):
    """A minion recurrent unit without gates: β replaces the reset gate, λ the update gate.

    n = tanh(W_n x + U_n (β h) + b_n)
    h' = λ h + (1 − λ) n
    """

    paper = "Zyarah & Kudithipudi 2025, arXiv:2503.06175"
    reference = "secondary source"
    gates = ("n",)
    biases = ("ih",)
    reset_coefficient: float = option(0.5, "β, the share of h that n sees")
    update_coefficient: float = option(0.5, "λ, the share of h that is kept")

    def update(self, a: PreActivations, s: Any) -> Tensor:
        n = tanh(a.x.n + self.reset_coefficient * a.h.n)
        return self.update_coefficient * s.h + (1 - self.update_coefficient) * n
