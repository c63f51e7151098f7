"""Simple gated units, in which the input gates the state before the product."""

from typing import Any, ClassVar

from torch import Tensor, clamp, sigmoid, tanh
from torch.nn.functional import softplus

from cellzoo.cells import Gate, GatedCell, PreActivations, register_cell


@register_cell("sgu")
class SGU(GatedCell):
    """A simple gated unit, with the old state, multiplied twice, as the content.

        g = tanh(U_g ((W_g x + b_g) ⊙ h))
        n = softplus(g ⊙ h)
        z = s(W_z x + U_z h + b_z)
        h' = (1 − z) ⊙ h + z ⊙ n

    s is the hard sigmoid of Theano and Keras: 0.2 a + 0.5, clipped to [0, 1].
    """

    paper = "Gao & Glowacka 2016, arXiv:1604.02910"
    reference = "secondary source"
    gates: ClassVar[Any] = {"g": Gate(late=True), "z": Gate()}
    biases = ("ih",)
    keep = {"z": -1}

    def content(self, v: Tensor) -> Tensor:
        """Return the new content, from g ⊙ h."""
        return softplus(v)

    def update(self, a: PreActivations, s: Any) -> Tensor:
        g = tanh(self.product("g", a.g * s.h))
        z = clamp(0.2 * a.z + 0.5, 0, 1)
        return (1 - z) * s.h + z * self.content(g * s.h)


@register_cell("dsgu")
class DSGU(SGU):
    """A deep simple gated unit: an `sgu` with n = σ(U_o (g ⊙ h))."""

    gates = {"g": Gate(late=True), "z": Gate(), "o": Gate(x="none", late=True)}

    def content(self, v: Tensor) -> Tensor:
        return sigmoid(self.product("o", v))
