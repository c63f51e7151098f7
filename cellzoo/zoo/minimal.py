"""Cells with one gate, which weighs the old state against new content."""

from typing import Any, ClassVar

from torch import Tensor, sigmoid, tanh
from torch.nn.functional import linear

from cellzoo.cells import Extra, Gate, GatedCell, PreActivations, register_cell


@register_cell("mgu")
class MGU(GatedCell):
    """A minimal gated unit: a `gru_v1` with one gate that both resets and updates.

        f = σ(W_f x + U_f h + b_f)
        n = tanh(W_n x + U_n (f ⊙ h) + b_n)
        h' = (1 − f) ⊙ h + f ⊙ n

    f is named the forget gate, but a large f overwrites.
    """

    paper = "Zhou et al. 2016, arXiv:1603.09420"
    reference = "secondary source"
    gates: ClassVar[Any] = {"f": Gate(), "n": Gate(late=True)}
    biases: ClassVar[tuple[str, ...]] = ("ih",)
    keep: ClassVar[dict[str, int]] = {"f": -1}

    def gate(self, a: PreActivations) -> Tensor:
        """Return the forget gate."""
        return sigmoid(a.f)

    def update(self, a: PreActivations, s: Any) -> Tensor:
        f = self.gate(a)
        n = tanh(a.n + self.product("n", f * s.h))
        return (1 - f) * s.h + f * n


@register_cell("mgu1")
class MGU1(MGU):
    """An `mgu` with a gate that does not see the input: f = σ(U_f h + b_f)."""

    paper = "Heck & Salem 2017, arXiv:1701.03452"
    reference = "memory"
    gates = {"f": Gate(x="none"), "n": Gate(late=True)}
    biases = ("hh",)


@register_cell("mgu2")
class MGU2(MGU1):
    """An `mgu` with a gate that sees the state alone, without a bias: f = σ(U_f h)."""

    biases = ("ih",)  # for n alone: f has no rows from x


@register_cell("mgu3")
class MGU3(MGU):
    """An `mgu` with a learned constant for a gate: f = σ(b_f)."""

    paper = "Heck & Salem 2017, arXiv:1701.03452"
    reference = "memory"
    gates = {"n": Gate(late=True)}
    extra = {"bias_f": Extra("hidden_size")}
    keep = {}

    def gate(self, a: PreActivations) -> Tensor:
        return sigmoid(self.bias_f)


@register_cell("ugrnn")
class UGRNN(GatedCell):
    """An update gate network: a simple recurrent network with a gate that keeps the state.

        c = tanh(W_c x + U_c h + b_c)      g = σ(W_g x + U_g h + b_g)
        h' = g ⊙ h + (1 − g) ⊙ c

    `init="paper"` sets b_g to 1.
    """

    paper = "Collins, Sohl-Dickstein, Sussillo 2017, arXiv:1611.09913"
    reference = "author's code"
    gates = ("c", "g")
    biases = ("ih",)
    keep = {"g": +1}
    paper_init = {"name": "torch", "forget_bias": 1.0}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        g = sigmoid(a.g)
        return g * s.h + (1 - g) * tanh(a.c)


@register_cell("light_ru")
class LightRU(GatedCell):
    """A light recurrent unit, with content from the input alone.

        n = tanh(W_n x)
        f = σ(W_f x + U_f h + b_f)
        h' = (1 − f) ⊙ h + f ⊙ n

    The paper has no bias b_n in n; it is an addition here.
    """

    paper = "Ye et al. 2024, Electronics 13(16):3204 (10.3390/electronics13163204)"
    reference = "secondary source"
    gates = {"n": Gate(state="none"), "f": Gate()}
    biases = ("ih",)
    keep = {"f": -1}

    def project(self, x: Tensor) -> Tensor:
        return self.project_gates(x, n=tanh)

    def update(self, a: PreActivations, s: Any) -> Tensor:
        f = sigmoid(a.f)
        return (1 - f) * s.h + f * a.n


@register_cell("star")
class STAR(GatedCell):
    """A stackable recurrent unit, with one tanh over the kept and the new content.

    z = tanh(W_z x + b_z)
    k = σ(W_k x + U_k h + b_k)
    h' = tanh((1 − k) ⊙ h + k ⊙ z)
    """

    paper = "Turkoglu et al. 2021, arXiv:1911.11033"
    reference = "secondary source"
    gates = {"z": Gate(state="none"), "k": Gate()}
    biases = ("ih",)
    keep = {"k": -1}

    def project(self, x: Tensor) -> Tensor:
        return self.project_gates(x, z=tanh)

    def update(self, a: PreActivations, s: Any) -> Tensor:
        k = sigmoid(a.k)
        return tanh((1 - k) * s.h + k * a.z)


@register_cell("sgrn")
class SGRN(GatedCell):
    """A simple gated recurrent network: gate and content share one projection of the input.

    f = σ(W x + U h + b)
    h' = tanh((1 − f) ⊙ W x + f ⊙ h)
    """

    paper = "Zu et al. 2020, IET Gener. Transm. Distrib. (10.1049/gtd2.12056)"
    reference = "secondary source"
    gates = ("f",)
    biases = ("hh",)  # for the gate alone: W x has none
    keep = {"f": +1}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        f = sigmoid(a.f)
        return tanh((1 - f) * a.x.f + f * s.h)


@register_cell("minimal_rnn")
class MinimalRNN(GatedCell):
    """A MinimalRNN: the state stays in a latent space, to which the input alone is mapped.

    z = tanh(W_z x + b_z)
    u = σ(U_u h + V_u z + b_u)
    h' = u ⊙ h + (1 − u) ⊙ z
    """

    paper = "Chen 2017, arXiv:1711.06788"
    reference = "secondary source"
    gates = {"z": Gate(state="none"), "u": Gate(x="none")}
    extra = {"weight_uz": Extra("hidden_size", "hidden_size")}
    keep = {"u": +1}

    def project(self, x: Tensor) -> dict[str, Tensor]:
        z = self.project_gates(x, z=tanh)
        return {"all": z, "vz": linear(z, self.weight_uz).to(z.dtype)}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        u = sigmoid(a.u + a.x.vz)
        return u * s.h + (1 - u) * a.z
