"""Cells with content from the input alone: the state acts through gates."""

from typing import Any

from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Gate, GatedCell, PreActivations, option, register_cell


@register_cell("ran")
class RAN(GatedCell):
    """A recurrent additive network: a gated sum of linear projections of the inputs.

        n = W_n x
        i = σ(W_i x + U_i h + b_i)      f = σ(W_f x + U_f h + b_f)
        c' = i ⊙ n + f ⊙ c              h' = φ(c'), φ tanh or the identity

    The paper has no bias b_n in n; it is an addition here.
    """

    paper = "Lee, Levy, Zettlemoyer 2017, arXiv:1705.07393"
    reference = "author's code"
    gates = {"n": Gate(state="none"), "i": Gate(), "f": Gate()}
    states = ("h", "c")
    biases = ("ih",)
    keep = {"f": +1}
    write = {"i": +1}
    nonlinearity: str = option("tanh", "φ", choices=("tanh", "identity"))

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        c = sigmoid(a.i) * a.n + sigmoid(a.f) * s.c
        return tanh(c) if self.nonlinearity == "tanh" else c, c


@register_cell("cfn")
class CFN(GatedCell):
    """A chaos-free network: without input, every state decays to zero.

        θ = σ(W_θ x + U_θ h + b_θ)      η = σ(W_η x + U_η h + b_η)
        h' = θ ⊙ tanh(h) + η ⊙ tanh(W_n x)

    The gates are named theta and eta. The paper has no bias b_n; it is an addition here.
    """

    paper = "Laurent & von Brecht 2017, arXiv:1612.06212"
    reference = "secondary source"
    gates = {"theta": Gate(), "eta": Gate(), "n": Gate(state="none")}
    biases = ("ih",)
    keep = {"theta": +1}
    write = {"eta": +1}

    def project(self, x: Tensor) -> Tensor:
        return self.project_gates(x, n=tanh)

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return sigmoid(a.theta) * tanh(s.h) + sigmoid(a.eta) * a.n


@register_cell("atr")
class ATR(GatedCell):
    """An addition-subtraction twin-gated network: one pair of projections makes both gates.

        p = W x          q = U h + b
        i = σ(p + q)     f = σ(p − q)
        h' = i ⊙ p + f ⊙ h

    The bias is in q, as in the authors' code.
    """

    paper = "Zhang et al. 2018, arXiv:1810.12546"
    reference = "author's code"
    gates = ("p",)
    biases = ("hh",)

    def update(self, a: PreActivations, s: Any) -> Tensor:
        p, q = a.x.p, a.h.p
        return sigmoid(p + q) * p + sigmoid(p - q) * s.h
