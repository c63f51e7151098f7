"""Networks with a recurrent matrix that stays orthogonal."""

import math
from typing import Any

import torch
from torch import Tensor

from cellzoo.cells import Extra, GatedCell, PreActivations, register_cell


def _rotations(cell: Any) -> Tensor:
    """Draw a block-diagonal A: a rotation of each pair of units by an angle uniform in ±π."""
    row, column = torch.triu_indices(cell.hidden_size, cell.hidden_size, 1)
    angles = torch.empty(len(row)).uniform_(-math.pi, math.pi)
    return torch.where((row % 2 == 0) & (column == row + 1), angles, 0.0)


@register_cell("exprnn")
class ExpRNN(GatedCell):
    """A network with the exponential of an antisymmetric matrix as its recurrent matrix.

        h' = φ(W x + exp(A − Aᵀ) h),  φ(v) = sign(v) max(|v| + b, 0), modReLU

    The parameter `skew` holds the part of A above the diagonal, row by row, and starts as in Henaff
    et al. 2016 (arXiv:1602.06662). b is `shift`. The recurrent matrix preserves norms: the states
    grow with the inputs at most linearly in time.
    """

    paper = "Lezcano-Casado & Martínez-Rubio 2019, arXiv:1901.08428"
    reference = "author's code"
    gates = ("n",)
    biases = ()
    derived = ("weight_hh",)
    extra = {
        "skew": Extra("skew_size", init=_rotations),
        "shift": Extra.uniform("hidden_size", low=-0.01, high=0.01),
    }

    @property
    def skew_size(self) -> int:
        return self.hidden_size * (self.hidden_size - 1) // 2

    def recurrent_weights(self) -> dict[str, Tensor]:
        size, like = self.hidden_size, self.weight_ih
        upper = like.new_zeros(size, size)
        if self.skew is not None:
            places = torch.triu_indices(size, size, 1, device=like.device).unbind(0)
            upper = upper.index_put(places, self.skew)
        exact = torch.promote_types(like.dtype, torch.float32)  # matrix_exp needs at least float32
        return {"weight_hh": torch.matrix_exp((upper - upper.T).to(exact)).to(like.dtype)}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return torch.sign(a.n) * torch.relu(a.n.abs() + self.shift)
