"""The Legendre memory unit."""

from typing import Any

import torch
from torch import Tensor, tanh

from cellzoo.cells import Extra, Gate, GatedCell, PreActivations, State, option, register_cell


def delay_network(order: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return Ā (order, order) and B̄ (order,): a window of `theta` steps in Legendre polynomials.

    The continuous system is a_ij = (2i + 1)/θ · (−1 if i < j else (−1)^(i−j+1)) and
    b_i = (2i + 1)/θ · (−1)^i. It is discretised with the input held constant during a step.
    """
    i = torch.arange(order, dtype=torch.float64)
    rate = (2 * i + 1) / theta
    row, column = i.unsqueeze(1), i.unsqueeze(0)
    sign = torch.where(row < column, -1.0, (-1.0) ** (row - column + 1))
    system = torch.zeros(order + 1, order + 1, dtype=torch.float64)
    system[:order, :order] = rate.unsqueeze(1) * sign
    system[:order, order] = rate * (-1.0) ** i
    held = torch.matrix_exp(system)
    return held[:order, :order].contiguous(), held[:order, order].contiguous()


@register_cell("lmu")
class LMU(GatedCell):
    """A Legendre memory unit: a linear memory of a sliding window, and a nonlinear state.

        u = e_x·x + e_h·h + e_m·m      m' = Ā m + B̄ u
        h' = tanh(W x + U h + V m')

    m, (B, order), holds the coefficients of the window in Legendre polynomials. u is one number,
    and Ā and B̄ are fixed. The paper has no biases.
    """

    paper = "Voelker, Kajić, Eliasmith 2019, NeurIPS 32"
    reference = "author's code"
    gates = {
        "u": Gate(of=("h", "m"), width=1),
        "m_next": Gate(x="none", of="m", width="order"),
        "n": Gate(),
    }
    states = {"h": State(), "m": State("order")}
    extra = {"weight_m": Extra("hidden_size", "order")}
    biases = ()
    derived = ("weight_hh_m",)
    order: int = option(16, "the width of the memory")
    theta: float = option(100.0, "θ, the length of the window in steps")

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        transition, entry = delay_network(self.order, self.theta)
        self.register_buffer("transition", transition.to(self._like))
        self.register_buffer("entry", entry.to(self._like))

    def recurrent_weights(self) -> dict[str, Tensor]:
        return super().recurrent_weights() | {"weight_hh_m": self.transition}

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        m = a.m_next + self.entry * a.u
        return tanh(a.n + self.product("weight_m", m)), m
