"""FastRNN and FastGRNN: a residual and a gated connection with learned scalars."""

from typing import Any, ClassVar

from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Extra, GatedCell, PreActivations, option, register_cell


class LowRank(GatedCell):
    """A cell of one gate n with an optional low-rank recurrent matrix, U = U_1 U_2."""

    gates = ("n",)
    extra: ClassVar[Any] = {
        "weight_hh_1": Extra("hidden_size", "rank"),
        "weight_hh_2": Extra("rank", "hidden_size"),
    }
    rank: int = option(0, "the rank of U; 0: U is one full matrix")

    @property
    def derived(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("weight_hh",) if self.rank else ()

    def recurrent_weights(self) -> dict[str, Tensor]:
        if self.rank:
            return {"weight_hh": self.weight_hh_1 @ self.weight_hh_2}
        return super().recurrent_weights()


@register_cell("fastrnn")
class FastRNN(LowRank):
    """A FastRNN: a simple recurrent network with a weighted residual connection.

        n = tanh(W x + U h + b)
        h' = σ(α) n + σ(β) h

    α and β are scalars. The σ and the initial values −3 and 3 are those of the authors' code, and
    so is `init="paper"`: weights from N(0, 0.1²), biases 1.
    """

    paper = "Kusupati et al. 2018, arXiv:1901.02358"
    reference = "author's code"
    biases = ("ih",)
    extra = {**LowRank.extra, "alpha": Extra(1, init=-3.0), "beta": Extra(1, init=3.0)}
    paper_init = {
        "name": "normal",
        "std": 0.1,
        "blocks": {"bias_ih": {"name": "constant", "value": 1.0}},
    }

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return sigmoid(self.alpha) * tanh(a.n) + sigmoid(self.beta) * s.h


@register_cell("fastgrnn")
class FastGRNN(LowRank):
    """A FastGRNN: gate and content share both matrices and differ by their biases.

        z = σ(W x + U h + b_z)      n = tanh(W x + U h + b_n)
        h' = (σ(ζ) (1 − z) + σ(ν)) ⊙ n + z ⊙ h

    ζ and ν are scalars. The σ, the initial values 1 and −4, and the biases of 1 are those of the
    authors' code, and so is `init="paper"`: weights from N(0, 0.1²).
    """

    paper = "Kusupati et al. 2018, arXiv:1901.02358"
    reference = "author's code"
    biases = ()
    extra = {
        **LowRank.extra,
        "bias_z": Extra("hidden_size", init=1.0),
        "bias_n": Extra("hidden_size", init=1.0),
        "zeta": Extra(1, init=1.0),
        "nu": Extra(1, init=-4.0),
    }
    paper_init = {"name": "normal", "std": 0.1}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        z = sigmoid(a.n + self.bias_z)
        n = tanh(a.n + self.bias_n)
        return (sigmoid(self.zeta) * (1 - z) + sigmoid(self.nu)) * n + z * s.h
