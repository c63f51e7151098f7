"""Neurons in continuous time: liquid time constants, closed-form solutions, delayed feedback."""

from typing import Any

import torch
from torch import Tensor, sigmoid, tanh
from torch.nn.functional import gelu, silu, softplus

from cellzoo.cells import Extra, Gate, PreActivations, State, option, register_cell
from cellzoo.cells.base import GatedCell, positive


def _signs(*shape: str) -> Extra:
    """Return the declaration of a parameter that starts at ±1."""

    def draw(cell: Any) -> Tensor:
        return 2.0 * torch.randint(0, 2, [getattr(cell, extent) for extent in shape]) - 1

    return Extra(*shape, init=draw)


@register_cell("ltc")
class LTC(GatedCell):
    """A liquid time-constant network of fully connected neurons, with a semi-implicit solver.

        S_ji(v) = s(w_ji) σ(σ_ji (v_j − μ_ji)), the synapse from j to i; likewise from inputs
        v_i ← (C_i v_i + s(g_i) E_i + Σ_j S_ji(v) e_ji + Σ_k S_ki(u) e_ki)
              / (C_i + s(g_i) + Σ_j S_ji(v) + Σ_k S_ki(u) + ε),  C_i = s(c_i) · unfolds / Δt
        u = a ⊙ x + b

    A step takes the time Δt and has `unfolds` such fused substeps. s is softplus; the authors keep
    w, g and c positive by softplus or by clipping them after each update. There are no gates: every
    synapse has a sigmoid of its own. A substep therefore computes (B, H, H) numbers, and a sequence
    (T, B, I, H) numbers for its inputs.
    """

    paper = "Hasani et al. 2021, arXiv:2006.04439"
    reference = "author's code"
    states = ("v",)
    extra = {
        "leak": Extra.uniform("hidden_size", low=0.001, high=1.0),
        "leak_potential": Extra.uniform("hidden_size", low=-0.2, high=0.2),
        "capacitance": Extra.uniform("hidden_size", low=0.4, high=0.6),
        "weight": Extra.uniform("hidden_size", "hidden_size", low=0.001, high=1.0),
        "mu": Extra.uniform("hidden_size", "hidden_size", low=0.3, high=0.8),
        "sigma": Extra.uniform("hidden_size", "hidden_size", low=3.0, high=8.0),
        "reversal": _signs("hidden_size", "hidden_size"),
        "sensory_weight": Extra.uniform("input_size", "hidden_size", low=0.001, high=1.0),
        "sensory_mu": Extra.uniform("input_size", "hidden_size", low=0.3, high=0.8),
        "sensory_sigma": Extra.uniform("input_size", "hidden_size", low=3.0, high=8.0),
        "sensory_reversal": _signs("input_size", "hidden_size"),
        "input_scale": Extra("input_size", init=1.0),
        "input_shift": Extra("input_size", init=0.0),
    }
    elapsed_time = True
    unfolds: int = option(6, "substeps per step")
    epsilon: float = option(1e-8, "added to the denominator")

    def project(self, x: Tensor) -> dict[str, Tensor]:
        u = (self.input_scale * x + self.input_shift).unsqueeze(-1)
        open_ = softplus(self.sensory_weight) * sigmoid(self.sensory_sigma * (u - self.sensory_mu))
        return {"current": (open_ * self.sensory_reversal).sum(-2), "conductance": open_.sum(-2)}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        leak, weight = softplus(self.leak), softplus(self.weight)
        capacitance = softplus(self.capacitance) * self.unfolds / a.x.dt
        v = s.v
        for _ in range(self.unfolds):
            open_ = weight * sigmoid(self.sigma * (v.unsqueeze(-1) - self.mu))
            current = leak * self.leak_potential + (open_ * self.reversal).sum(-2) + a.x.current
            conductance = leak + open_.sum(-2) + a.x.conductance
            v = (capacitance * v + current) / (capacitance + conductance + self.epsilon)
        return v


ACTIVATIONS = {
    "lecun_tanh": lambda v: 1.7159 * tanh(0.666 * v),
    "tanh": tanh,
    "relu": torch.relu,
    "silu": silu,
    "gelu": gelu,
}


@register_cell("cfc")
class CfC(GatedCell):
    """A closed-form continuous-time network, which approximates a liquid time-constant network.

        b = φ(W x + U h + d), through `backbone_layers` layers of `backbone_units`
        g = tanh(U_g b + d_g)      k = tanh(U_k b + d_k)
        t = σ((U_ta b + d_ta) Δt + U_tb b + d_tb)
        default   h' = (1 − t) ⊙ g + t ⊙ k
        no_gate   h' = g + t ⊙ k
        pure      h' = A − A ⊙ exp(−Δt (|w| + |n|)) ⊙ n,  n = U_g b + d_g

    Without a backbone (0 layers) the heads read x and h themselves in place of b. The default
    activation is LeCun's tanh, 1.7159 tanh(0.666 v).
    """

    paper = "Hasani et al. 2022, arXiv:2106.13898"
    reference = "author's code"
    biases = ("hh",)  # one per layer: every gate has a recurrent block
    elapsed_time = True
    mode: str = option(
        "default", "the form of the solution", choices=("default", "pure", "no_gate")
    )
    backbone_units: int = option(128, "the width of a backbone layer")
    backbone_layers: int = option(1, "the number of layers in the backbone")
    activation: str = option("lecun_tanh", "φ", choices=tuple(ACTIVATIONS))
    paper_init = {"name": "glorot"}

    @property
    def _heads(self) -> tuple[str, ...]:
        return ("g",) if self.mode == "pure" else ("g", "k", "ta", "tb")

    @property
    def gates(self) -> dict[str, Gate]:
        if self.backbone_layers == 0:
            return {head: Gate() for head in self._heads}
        gates = {"b1": Gate(width="backbone_units")}
        for number in range(2, self.backbone_layers + 1):
            gates[f"b{number}"] = Gate(
                x="none", of=f"b{number - 1}", late=True, width="backbone_units"
            )
        last = f"b{self.backbone_layers}"
        return gates | {head: Gate(x="none", of=last, late=True) for head in self._heads}

    @property
    def extra(self) -> dict[str, Extra]:
        if self.mode != "pure":
            return {}
        return {"w": Extra("hidden_size", init=0.0), "amplitude": Extra("hidden_size", init=1.0)}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        if self.backbone_layers == 0:
            heads = [getattr(a, head) for head in self._heads]
        else:
            activation = ACTIVATIONS[self.activation]
            b = activation(a.b1)
            for number in range(2, self.backbone_layers + 1):
                b = activation(self.product(f"b{number}", b))
            heads = list(self.product(self._heads, b))
        if self.mode == "pure":
            (n,) = heads
            decay = torch.exp(-a.x.dt * (self.w.abs() + n.abs()))
            return self.amplitude - self.amplitude * decay * n
        g, k, time_a, time_b = heads
        t = sigmoid(time_a * a.x.dt + time_b)
        kept = tanh(g) if self.mode == "no_gate" else (1 - t) * tanh(g)
        return kept + t * tanh(k)


@register_cell("tau_gru")
class TauGRU(GatedCell):
    """A gated recurrent unit with weighted feedback of the state `delay` steps ago.

        u = tanh(U_u h + W_u x + b_u)      z = tanh(U_z h₋ + W_z x + b_z)
        g = Δt σ(U_g h + W_g x + b_g)      a = σ(U_a h + W_a x + b_a)
        h' = (1 − g) ⊙ h + g ⊙ (β u + α a ⊙ z)

    If h is the state n steps after the start, h₋ is the state n − `delay` steps after the start,
    and 0 before the start. The state `history` holds the states between, the oldest first.
    Published code delays x too, in z and a; the equations delay h alone.
    """

    paper = "Erichson et al. 2025, arXiv:2212.00228"
    reference = "secondary source"
    gates = {"u": Gate(), "z": Gate(late=True), "g": Gate(), "a": Gate()}
    keep = {"g": -1}
    paper_init = {"name": "torch"}
    states = {"h": State(), "history": State("history_size")}
    delay: int = option(10, "the delay in steps, at least 1")
    time_step: float = option(1.0, "Δt")
    alpha: float = option(1.0, "α")
    beta: float = option(1.0, "β")

    @property
    def history_size(self) -> int:
        return positive("delay", self.delay) * self.hidden_size

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        delayed, others = s.history[:, : self.hidden_size], s.history[:, self.hidden_size :]
        z = tanh(a.z + self.product("z", delayed))
        g = self.time_step * sigmoid(a.g)
        fed = self.beta * tanh(a.u) + self.alpha * sigmoid(a.a) * z
        return (1 - g) * s.h + g * fed, torch.cat([others, s.h], -1)
