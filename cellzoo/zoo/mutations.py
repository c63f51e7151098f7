"""The three best cells of the evolutionary search of Jozefowicz et al."""

from typing import Any

from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Gate, PreActivations, register_cell
from cellzoo.zoo.fitted import FittedInput

PAPER = "Jozefowicz, Zaremba, Sutskever 2015, PMLR 37:2342"


class Mutation(FittedInput):
    """The base class: n = tanh(U_n (r ⊙ h) + …), and h' = z ⊙ n + (1 − z) ⊙ h."""

    def mixed(self, h: Tensor, r: Tensor, z: Tensor, content: Tensor) -> Tensor:
        """Return h' from the pre-activations of r and z, and the rest of n's."""
        z = sigmoid(z)
        return z * tanh(self.product("n", sigmoid(r) * h) + content) + (1 - z) * h


@register_cell("mut1")
class MUT1(Mutation):
    """MUT1, with an update gate from the input alone and tanh(x) as the content.

        z = σ(W_z x + b_z)      r = σ(W_r x + U_r h + b_r)
        n = tanh(U_n (r ⊙ h) + tanh(x) + b_n)
        h' = z ⊙ n + (1 − z) ⊙ h

    The paper's x is as wide as h. Otherwise the content is tanh(P x). r has two biases here;
    only their sum matters.
    """

    paper = PAPER
    reference = "secondary source"
    gates = {"z": Gate(state="none"), "r": Gate(), "n": Gate(x="none", late=True)}
    keep = {"z": -1}

    def project(self, x: Tensor) -> dict[str, Tensor]:
        return {"all": self.project_gates(x), "content": tanh(self.fitted(x))}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return self.mixed(s.h, a.r, a.z, a.x.content)


@register_cell("mut2")
class MUT2(Mutation):
    """MUT2, a `gru_v1` with a reset gate that adds x without a projection.

        z = σ(W_z x + U_z h + b_z)      r = σ(x + U_r h + b_r)
        n = tanh(U_n (r ⊙ h) + W_n x + b_n)
        h' = z ⊙ n + (1 − z) ⊙ h

    The paper's x is as wide as h. Otherwise r = σ(P x + …).
    """

    paper = PAPER
    reference = "memory"
    gates = {"z": Gate(), "r": Gate(x="none"), "n": Gate(late=True)}
    biases = ("hh",)
    keep = {"z": -1}

    def project(self, x: Tensor) -> dict[str, Tensor]:
        return {"all": self.project_gates(x), "reset": self.fitted(x)}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return self.mixed(s.h, a.r + a.x.reset, a.z, a.n)


@register_cell("mut3")
class MUT3(Mutation):
    """MUT3, a `gru_v1` with an update gate that sees tanh(h).

    z = σ(W_z x + U_z tanh(h) + b_z)      r = σ(W_r x + U_r h + b_r)
    n = tanh(U_n (r ⊙ h) + W_n x + b_n)
    h' = z ⊙ n + (1 − z) ⊙ h
    """

    paper = PAPER
    reference = "memory"
    gates = {"z": Gate(late=True), "r": Gate(), "n": Gate(late=True)}
    extra = {}
    biases = ("ih",)
    keep = {"z": -1}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return self.mixed(s.h, a.r, a.z + self.product("z", tanh(s.h)), a.n)
