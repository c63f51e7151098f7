"""Bistable recurrent cells."""

from typing import Any, ClassVar

from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Gate, GatedCell, PreActivations, register_cell


@register_cell("nbrc")
class NBRC(GatedCell):
    """A recurrently neuromodulated bistable cell: for a > 1 a unit by itself has two fixed points.

        c = σ(W_c x + U_c h + b_c)      a = 1 + tanh(W_a x + U_a h + b_a)
        h' = c ⊙ h + (1 − c) ⊙ tanh(W_n x + a ⊙ h)

    The authors' code has no bias b_n; it is an addition here.
    """

    paper = "Vecoven, Ernst, Drion 2021, arXiv:2006.05252 (10.1371/journal.pone.0252676)"
    reference = "author's code"
    gates: ClassVar[Any] = {"c": Gate(), "a": Gate(), "n": Gate(state="none")}
    biases = ("ih",)
    keep = {"c": +1}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        c = sigmoid(a.c)
        return c * s.h + (1 - c) * tanh(a.n + (1 + tanh(a.a)) * s.h)


@register_cell("brc")
class BRC(NBRC):
    """A bistable cell: an `nbrc` with diagonal U_c and U_a, in which a unit sees itself alone."""

    gates = {
        "c": Gate(state="diagonal"),
        "a": Gate(state="diagonal"),
        "n": Gate(state="none"),
    }
