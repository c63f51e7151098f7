"""Extensions of the simple recurrent network without gates."""

from typing import Any

import torch
from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Extra, Gate, PreActivations, State, option, register_cell
from cellzoo.cells.base import GatedCell, positive
from cellzoo.zoo.elman import Elman


@register_cell("irnn")
class IRNN(Elman):
    """A simple recurrent network with relu, for an initialisation with the identity.

        h' = relu(W x + U h + b)

    `init="paper"` sets U to the identity, W to normal values with standard deviation 0.001, and b
    to zero. The states are not bounded.
    """

    paper = "Le, Jaitly, Hinton 2015, arXiv:1504.00941"
    nonlinearity = "relu"
    native = "rnn_relu"
    bounded = False
    paper_init = {"name": "identity", "blocks": {"weight_ih": {"name": "normal", "std": 0.001}}}


@register_cell("scrn")
class SCRN(GatedCell):
    """A structurally constrained recurrent network with context units that change slowly.

        s' = (1 − α) B x + α s
        h' = σ(A x + R h + P s' + b)

    The output is h' and s' concatenated, (B, H + C): a linear layer on it is the paper's
    U h' + V s'. The gates are named n (A, R) and b (B), and P is `weight_hs`. The paper has no
    bias. P acts on the new context as in the paper; in the authors' code it acts on the old one.
    """

    paper = "Mikolov et al. 2015, arXiv:1412.7753"
    reference = "secondary source"
    gates = {"n": Gate(), "b": Gate(state="none", width="context_width")}
    states = {"h": State(), "s": State("context_width")}
    extra = {"weight_hs": Extra("hidden_size", "context_width")}
    biases = ("hh",)  # for n alone: b has no rows from h
    context_size: int = option(0, "C, the number of context units; 0: the hidden size")
    alpha: float = option(0.95, "α, the share of the context that is kept")

    @property
    def context_width(self) -> int:
        """Return C, the number of context units."""
        return positive("context_size", self.context_size or self.hidden_size)

    @property
    def output_size(self) -> int:
        return self.hidden_size + self.context_width

    def update(self, a: PreActivations, s: Any) -> tuple[tuple[Tensor, Tensor], Tensor]:
        context = (1 - self.alpha) * a.b + self.alpha * s.s
        h = sigmoid(a.n + self.product("weight_hs", context))
        return (h, context), torch.cat([h, context], -1)


@register_cell("multiplicative_rnn")
class MultiplicativeRNN(GatedCell):
    """A multiplicative recurrent network, with a factored recurrent matrix that depends on x.

        m = (W_m x + b_m) ⊙ (U_m h)
        h' = tanh(W_n x + U_n m + b_n)

    m has `factor_size` units. The paper has no biases.
    """

    paper = "Sutskever, Martens, Hinton 2011, ICML"
    reference = "secondary source"
    gates = {"m": Gate(width="factor_width"), "n": Gate(of="m", late=True)}
    biases = ("ih",)
    factor_size: int = option(0, "the width of m, the number of factors; 0: the hidden size")

    @property
    def factor_width(self) -> int:
        """Return the width of m."""
        return positive("factor_size", self.factor_size or self.hidden_size)

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return tanh(a.n + self.product("n", a.x.m * a.h.m))


@register_cell("hornn")
class HORNN(GatedCell):
    """A higher-order recurrent network, which sees its states of the last `order` steps.

        h_t = φ(W x_t + U_1 h_{t−1} + … + U_N h_{t−N} + b), φ tanh or relu

    The states are h, h2, … hN. [U_1 … U_N] is one matrix. The paper's pooling of the earlier
    states is not implemented.
    """

    paper = "Soltani & Jiang 2016, arXiv:1605.00064"
    reference = "memory"
    biases = ("ih",)
    order: int = option(3, "N, the number of earlier states")
    nonlinearity: str = option("tanh", "φ", choices=("tanh", "relu"))

    @property
    def states(self) -> tuple[str, ...]:
        numbers = range(2, positive("order", self.order) + 1)
        return ("h", *(f"h{number}" for number in numbers))

    @property
    def gates(self) -> dict[str, Gate]:
        return {"n": Gate(of=self.states)}

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        return self.nonlinearity == "tanh"

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, ...]:
        h = tanh(a.n) if self.nonlinearity == "tanh" else torch.relu(a.n)
        return (h, *s[:-1])
