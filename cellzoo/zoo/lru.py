"""Linear recurrent units: diagonal and linear, with the eigenvalues as parameters."""

import math
from typing import Any

import torch
from torch import Tensor, sigmoid
from torch.nn.functional import softplus

from cellzoo.cells import (
    Extra,
    Gate,
    GatedCell,
    PreActivations,
    State,
    option,
    recur,
    register_cell,
)


def _nu_log(cell: Any) -> Tensor:
    """Draw |λ|² uniformly between r_min² and r_max², so that λ is uniform on the ring."""
    low, high = cell.r_min**2, cell.r_max**2
    squared = low + (high - low) * torch.empty(cell.hidden_size).uniform_(1e-6, 1 - 1e-6)
    return torch.log(-0.5 * torch.log(squared))


def _theta_log(cell: Any) -> Tensor:
    """Draw the phase of λ uniformly between 0 and max_phase."""
    return torch.log(cell.max_phase * torch.rand(cell.hidden_size))


def _gamma_log(cell: Any) -> Tensor:
    """Compute log γ for γ = √(1 − |λ|²)."""
    return 0.5 * torch.log(-torch.expm1(-2 * torch.exp(cell.nu_log)))


@register_cell("lru")
class LRU(GatedCell):
    """A linear recurrent unit: a complex diagonal recurrence with a linear output.

        λ = exp(−exp(ν) + i exp(θ))
        z' = λ ⊙ z + exp(γ) ⊙ (W_re + i W_im) x
        y = Re((C_re + i C_im) z') + W_skip x

    z is complex, (B, H). The output y has the same width, and there is no bias, as in the paper.
    λ starts on the ring between `r_min` and `r_max`, with phases up to `max_phase`. ν, θ and γ have
    no weight decay and half the learning rate.
    """

    paper = "Orvieto et al. 2023, arXiv:2303.06349"
    reference = "secondary source"
    gates = {"re": Gate(state="none"), "im": Gate(state="none"), "skip": Gate(state="none")}
    states = {"z": State(dtype="complex")}
    extra = {
        "nu_log": Extra("hidden_size", init=_nu_log, weight_decay=False, lr_factor=0.5),
        "theta_log": Extra("hidden_size", init=_theta_log, weight_decay=False, lr_factor=0.5),
        "gamma_log": Extra("hidden_size", init=_gamma_log, weight_decay=False, lr_factor=0.5),
        "weight_re": Extra("hidden_size", "hidden_size"),
        "weight_im": Extra("hidden_size", "hidden_size"),
    }
    biases = ()
    linear = True
    r_min: float = option(0.0, "the least |λ| at the start")
    r_max: float = option(1.0, "the greatest |λ| at the start")
    max_phase: float = option(2 * math.pi, "the greatest phase of λ at the start")

    @property
    def paper_init(self) -> dict[str, Any]:
        inward = {"name": "normal", "std": 1 / math.sqrt(2 * self.input_size)}
        outward = {"name": "normal", "std": 1 / math.sqrt(self.hidden_size)}
        skip = {"name": "normal", "std": 1.0}
        return {
            "name": "torch",
            "blocks": {
                "weight_ih": {"re": inward, "im": inward, "skip": skip},
                "weight_re": outward,
                "weight_im": outward,
            },
        }

    def update(self, a: PreActivations, s: Any) -> tuple[tuple[Tensor], Tensor]:
        decay = torch.polar(torch.exp(-torch.exp(self.nu_log)), torch.exp(self.theta_log))
        z = recur(s.z, decay, torch.exp(self.gamma_log) * torch.complex(a.re, a.im))
        read = self.product("weight_re", z.real) - self.product("weight_im", z.imag)
        return (z,), read + a.skip


def _lambda(cell: Any) -> Tensor:
    """Draw a^c uniformly between 0.9 and 0.999, where log a = −softplus(Λ)."""
    powers = 0.9 + (0.999 - 0.9) * torch.rand(cell.hidden_size)
    return torch.log(torch.expm1(-torch.log(powers) / RGLRU.c))


@register_cell("rglru")
class RGLRU(GatedCell):
    """A real-gated linear recurrent unit, the recurrence of Griffin.

        r = σ(W_r x + b_r)      i = σ(W_i x + b_i)
        a = exp(−c softplus(Λ) ⊙ r), c = 8
        h' = a ⊙ h + √(1 − a²) ⊙ i ⊙ (W_u x + b_u)

    The paper's input is as wide as the state, by a projection before the unit. Here W_u is that
    projection, and the gates see x itself. Λ starts with exp(−softplus(Λ))^c uniform between 0.9
    and 0.999. The argument of the root is at least 10⁻¹², which keeps its gradient finite.
    """

    paper = "De et al. 2024, arXiv:2402.19427"
    reference = "author's code"
    gates = {"r": Gate(state="none"), "i": Gate(state="none"), "u": Gate(state="none")}
    extra = {"decay": Extra("hidden_size", init=_lambda, weight_decay=False)}
    keep = {"r": -1}
    write = {"i": +1}
    linear = True
    c = 8.0

    def update(self, a: PreActivations, s: Any) -> Tensor:
        log_decay = -self.c * softplus(self.decay) * sigmoid(a.r)
        scale = torch.sqrt(torch.clamp(-torch.expm1(2 * log_decay), min=1e-12))
        return recur(s.h, torch.exp(log_decay), scale * sigmoid(a.i) * a.u)
