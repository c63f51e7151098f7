"""Simple recurrent units."""

import math
from typing import Any

import torch
from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Gate, PreActivations, State, option, recur, register_cell
from cellzoo.zoo.fitted import FittedInput


class Highway(FittedInput):
    """A unit with a highway from x to the output: x itself where I = H, else P x."""

    states = {"c": State()}
    keep = {"f": +1}

    def project(self, x: Tensor) -> dict[str, Tensor]:
        return {"all": self.project_gates(x), "skip": self.fitted(x)}


@register_cell("sru_v1")
class SRUv1(Highway):
    """A simple recurrent unit as first published, with gates that see the input alone.

        f = σ(W_f x + b_f)      r = σ(W_r x + b_r)
        c' = f ⊙ c + (1 − f) ⊙ (W x + b)
        h = r ⊙ φ(c') + (1 − r) ⊙ x, φ tanh, relu or the identity

    The output is h. Where x is not as wide as the state, P x replaces it. The paper has no b.
    """

    paper = "Lei & Zhang 2017, arXiv:1709.02755, version 1"
    reference = "author's code"
    gates = {"n": Gate(state="none"), "f": Gate(state="none"), "r": Gate(state="none")}
    linear = True
    activation: str = option("tanh", "φ", choices=("tanh", "relu", "identity"))

    def update(self, a: PreActivations, s: Any) -> tuple[tuple[Tensor], Tensor]:
        f, r = sigmoid(a.f), sigmoid(a.r)
        c = recur(s.c, f, (1 - f) * a.n)
        shown = {"tanh": tanh, "relu": torch.relu}.get(self.activation, lambda v: v)(c)
        return (c,), r * shown + (1 - r) * a.x.skip


@register_cell("sru")
class SRU(Highway):
    """A simple recurrent unit with gates that see the old state of their own unit.

        f = σ(W_f x + v_f ⊙ c + b_f)      r = σ(W_r x + v_r ⊙ c + b_r)
        c' = f ⊙ c + (1 − f) ⊙ (W x + b)
        h = r ⊙ c' + (1 − r) ⊙ α x,       α = √(1 + 2 exp(β)), β the highway bias

    The output is h. Where x is not as wide as the state, P x replaces it. `init="paper"` sets b_r
    to β. α is a constant; `rescale=False` sets α = 1. The paper has no b.
    """

    paper = "Lei et al. 2018, EMNLP, arXiv:1709.02755, version 5"
    reference = "author's code"
    gates = {
        "n": Gate(state="none"),
        "f": Gate(state="diagonal", of="c"),
        "r": Gate(state="diagonal", of="c"),
    }
    biases = ("ih",)
    highway_bias: float = option(0.0, "β")
    rescale: bool = option(True, "whether α follows β; otherwise α = 1")

    @property
    def paper_init(self) -> dict[str, Any]:
        bound = math.sqrt(3 / self.input_size)
        highway = {"name": "constant", "value": self.highway_bias}
        return {
            "name": "torch",
            "blocks": {
                "weight_ih": {"name": "uniform", "low": -bound, "high": bound},
                "bias_ih": {"n": "zeros", "f": "zeros", "r": highway},
            },
        }

    def update(self, a: PreActivations, s: Any) -> tuple[tuple[Tensor], Tensor]:
        f, r = sigmoid(a.f), sigmoid(a.r)
        c = f * s.c + (1 - f) * a.n
        scale = math.sqrt(1 + 2 * math.exp(self.highway_bias)) if self.rescale else 1.0
        return (c,), r * c + (1 - r) * (scale * a.x.skip)
