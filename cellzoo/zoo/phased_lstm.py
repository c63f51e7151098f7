"""An LSTM that is open to the input during a part of a cycle only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cellzoo.cells import Extra, PreActivations, State, option, register_cell
from cellzoo.zoo.lstm_variants import PeepholeLSTM


def random_period(cell: PhasedLSTM) -> Tensor:
    """Draw exp U(1, 3) for each unit."""
    return (1 + 2 * torch.rand(cell.hidden_size)).exp()


@register_cell("phased_lstm")
class PhasedLSTM(PeepholeLSTM):
    """An LSTM with peepholes and a time gate k, which opens once in each unit's own period.

        φ = ((t − s) mod τ) / τ
        k = 2φ / r            where φ < r / 2
            2 − 2φ / r        where r / 2 ≤ φ < r
            α φ               elsewhere: α is `leak` in training and 0 in evaluation
        h', c' = k ⊙ (the new h, c of `peephole_lstm`) + (1 − k) ⊙ (h, c)

    t is the state `time`, the sum of the elapsed times (by default 1 per step). Period τ, shift s
    and open ratio r are the parameters `period`, `shift` and `open_ratio`. They start as in the
    authors' experiments under every scheme: τ at exp U(1, 3), s at U(0, 100), r at 0.05.
    """

    paper = "Neil, Pfeiffer, Liu 2016, arXiv:1610.09513"
    reference = "author's code"
    elapsed_time = True
    states = {"h": State(), "c": State(), "time": State(1)}
    leak: float = option(0.001, "α, the slope of the closed gate in training")

    @property
    def extra(self) -> dict[str, Extra]:
        return super().extra | {
            "period": Extra("hidden_size", init=random_period),
            "shift": Extra.uniform("hidden_size", low=0.0, high=100.0),
            "open_ratio": Extra("hidden_size", init=0.05),
        }

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, ...]:
        time = s.time + a.x.dt
        k = self.time_gate(time)
        h, c = self.activations(a, s.c)[:2]
        return k * h + (1 - k) * s.h, k * c + (1 - k) * s.c, time

    def time_gate(self, time: Tensor) -> Tensor:
        """Return the openness k of each unit, (B, H), at a time (B, 1)."""
        cycles = (time - self.shift) / self.period
        phase = cycles - cycles.floor()
        rising = 2 * phase / self.open_ratio
        closed = phase * (self.leak if self.training else 0.0)
        falling = torch.where(phase < self.open_ratio, 2 - rising, closed)
        return torch.where(phase < self.open_ratio / 2, rising, falling)
