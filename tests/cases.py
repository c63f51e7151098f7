"""Cells that only exist in tests, each with its step written out in plain torch.

A case is a cell and its step as a function of the parameters `p`, one step's x and the states.
"""

from __future__ import annotations

import pytest
import torch
from helpers import F64, shake
from torch import sigmoid, tanh
from torch.nn.functional import linear

from cellzoo import RNN, Extra, Gate, GatedCell, State, option

CASES: list = []
SIZES = (3, 4)  # input, hidden
STACKS = [{}, {"num_layers": 2, "bidirectional": True}]


def case(step, **options):
    """Register a class as a case, with `step(p, x, [dt,] *states)` as the reference."""

    def decorate(cls):
        CASES.append(pytest.param(cls, step, options, id=cls.__name__))
        return cls

    return decorate


# -- late products -----------------------------------------------------------------------------


def mgu(p, x, h):
    wx = linear(x, p.weight_ih, p.bias_ih)
    f = sigmoid(wx[:, :4] + linear(h, p.weight_hh[:4], p.bias_hh[:4]))
    n = tanh(wx[:, 4:] + linear(f * h, p.weight_hh[4:], p.bias_hh[4:]))
    h = (1 - f) * h + f * n
    return (h,), h


@case(mgu)
class OneLateProduct(GatedCell):
    gates = {"f": Gate(), "n": Gate(late=True)}

    def update(self, a, s):
        f = sigmoid(a.f)
        return (1 - f) * s.h + f * tanh(a.n + self.product("n", f * s.h))


def late_in_any_order(p, x, h):
    wx, b, u = linear(x, p.weight_ih, p.bias_ih), p.bias_hh, p.weight_hh
    c = tanh(wx[:, 8:12] + linear(h, u[8:12], b[8:12]))
    b_late = tanh(wx[:, 4:8] + linear(c, u[4:8], b[4:8]))
    a_late = tanh(wx[:, :4] + linear(b_late, u[:4], b[:4]))
    h = a_late + 0.5 * h + linear(h * h, u[:4], b[:4])
    return (h,), h


@case(late_in_any_order)
class SeveralLateProducts(GatedCell):
    """Late gates that come first in the weight and are used last, one of them twice."""

    gates = {"p": Gate(late=True), "q": Gate(late=True), "r": Gate()}

    def update(self, a, s):
        q = tanh(a.q + self.product("q", tanh(a.r)))
        p = tanh(a.p + self.product("p", q))
        return p + 0.5 * s.h + self.product("p", s.h * s.h)


def fused_late(p, x, h):
    wx, u, b = linear(x, p.weight_ih, p.bias_ih), p.weight_hh, p.bias_hh
    r = sigmoid(wx[:, 4:8] + linear(h, u[4:8], b[4:8]))
    v = r * h
    first = wx[:, :4] + linear(v, u[:4], b[:4])
    last = wx[:, 8:] + linear(v, u[8:], b[8:])
    h = tanh(first) * sigmoid(last)
    return (h,), h


@case(fused_late)
class TwoLateGatesInOneProduct(GatedCell):
    """The two gates are not adjacent in the weight."""

    gates = {"m": Gate(late=True), "r": Gate(), "k": Gate(late=True)}

    def update(self, a, s):
        m, k = self.product(("m", "k"), sigmoid(a.r) * s.h)
        return tanh(a.m + m) * sigmoid(a.k + k)


def extra_matrix(p, x, h):
    mixed = linear(x, p.weight_ih, p.bias_ih) + linear(h, p.weight_hh, p.bias_hh)
    h = tanh(linear(tanh(linear(tanh(mixed), p.down)), p.up) + p.shift)
    return (h,), h


@case(extra_matrix)
class MatricesOfItsOwn(GatedCell):
    gates = ("n",)
    extra = {"down": Extra(2, "hidden_size"), "up": Extra("hidden_size", 2),
             "shift": Extra("hidden_size", init=0.5)}  # fmt: skip

    def update(self, a, s):
        return tanh(self.product("up", tanh(self.product("down", tanh(a.n)))) + self.shift)


def through_a_function(p, x, h):
    scale = torch.softmax(p.scale, -1)
    h = scale * tanh(linear(x, p.weight_ih, p.bias_ih) + linear(h, p.weight_hh, p.bias_hh))
    return (h,), h


@case(through_a_function)
class AParameterThroughAFunction(GatedCell):
    """The gradient of the parameter cannot be summed over the batch for each unit alone."""

    gates = ("n",)
    extra = {"scale": Extra("hidden_size")}

    def update(self, a, s):
        return torch.softmax(self.scale, -1) * tanh(a.n)


# -- other blocks ------------------------------------------------------------------------------


def diagonal(p, x, h):
    wx = linear(x, p.weight_ih, p.bias_ih)
    f = sigmoid(wx[:, :4] + p.weight_hh_diagonal[:4] * h + p.bias_hh[:4])
    n = tanh(wx[:, 4:] + p.weight_hh_diagonal[4:] * h + p.bias_hh[4:])
    h = f * h + (1 - f) * n
    return (h,), h


@case(diagonal)
class DiagonalBlocks(GatedCell):
    gates = {"f": Gate(state="diagonal"), "n": Gate(state="diagonal")}

    def update(self, a, s):
        f = sigmoid(a.f)
        return f * s.h + (1 - f) * tanh(a.n)


def late_diagonal(p, x, h):
    w, d, wx = p.weight_hh, p.weight_hh_diagonal, linear(x, p.weight_ih, p.bias_ih)
    r = sigmoid(wx[:, 4:8] + linear(h, w, p.bias_hh[4:8]))
    m, k = d[:4] * (r * h) + p.bias_hh[:4], d[4:] * (r * h) + p.bias_hh[8:]
    h = tanh(wx[:, :4] + m) + sigmoid(wx[:, 8:] + k)
    return (h,), h


@case(late_diagonal)
class LateDiagonalBlocks(GatedCell):
    gates = {"m": Gate(state="diagonal", late=True), "r": Gate(),
             "k": Gate(state="diagonal", late=True)}  # fmt: skip

    def update(self, a, s):
        m, k = self.product(("m", "k"), sigmoid(a.r) * s.h)
        return tanh(a.m + m) + sigmoid(a.k + k)


def dense(blocks):
    """Return the block-diagonal matrix of blocks, (heads · n, m) with heads = 2."""
    return torch.block_diag(*blocks.chunk(2))


def heads(p, x, h):
    wx, u = linear(x, p.weight_ih, p.bias_ih), p.weight_hh_heads
    f = sigmoid(wx[:, :4] + linear(h, dense(u[:4]), p.bias_hh[:4]))
    n = tanh(wx[:, 4:8] + linear(h, dense(u[4:8]), p.bias_hh[4:8]))
    late = linear(f * h, dense(u[8:]), p.bias_hh[8:])
    h = f * h + (1 - f) * n + tanh(wx[:, 8:] + late)
    return (h,), h


@case(heads)
class HeadsBlocks(GatedCell):
    gates = {"f": Gate(state="heads", heads=2), "n": Gate(state="heads", heads="number"),
             "e": Gate(state="heads", heads=2, late=True)}  # fmt: skip
    number: int = option(2)

    def update(self, a, s):
        f = sigmoid(a.f)
        return f * s.h + (1 - f) * tanh(a.n) + tanh(a.e + self.product("e", f * s.h))


def other_operands(p, x, h, c, d):
    wx, b = linear(x, p.weight_ih, p.bias_ih), p.bias_hh
    both = torch.cat([d, h], -1)
    g = tanh(wx[:, :4] + linear(c, p.weight_hh_c[:4], b[:4]))
    i = sigmoid(wx[:, 4:8] + linear(h, p.weight_hh, b[4:8]))
    k = sigmoid(wx[:, 8:14] + linear(both, p.weight_hh_d_h, b[8:14]))
    o = sigmoid(wx[:, 14:18] + linear(c, p.weight_hh_c[4:], b[14:18]))
    j = sigmoid(wx[:, 18:] + p.weight_hh_c_diagonal * c + b[18:])
    c = i * g + j * c
    h = o * tanh(c)
    return (h, c, tanh(k + 0.1 * d)), h


@case(other_operands)
class SeveralOperandsWithMixedOrder(GatedCell):
    """Gates with the operands c, h, (d, h), c, c: fused by operand, split by name."""

    gates = {"g": Gate(of="c"), "i": Gate(), "k": Gate(of=("d", "h"), width=6), "o": Gate(of="c"),
             "j": Gate(of="c", state="diagonal")}  # fmt: skip
    states = {"h": State(), "c": State(), "d": State(6)}

    def update(self, a, s):
        c = sigmoid(a.i) * tanh(a.g) + sigmoid(a.j) * s.c
        return sigmoid(a.o) * tanh(c), c, tanh(sigmoid(a.k) + 0.1 * s.d)


def all_parts(p, x, h, c):
    wx = linear(x, p.weight_ih, p.bias_ih)
    uc, uh = linear(c, p.weight_hh_c, p.bias_hh[:4]), linear(h, p.weight_hh, p.bias_hh[4:])
    a = wx * torch.cat([uc, uh], -1)
    return (tanh(a[:, :4]), tanh(a[:, 4:] + wx[:, :4] + uh)), tanh(a[:, :4])


@case(all_parts)
class AllGatesOfSeveralOperandsAtOnce(GatedCell):
    gates = {"m": Gate(of="c"), "k": Gate()}
    states = ("h", "c")

    def update(self, a, s):
        m, k = self.split(a.x.all * a.h.all)
        return tanh(m), tanh(k + a.x.m + a.h.k)


def partial_sources(p, x, h):
    wx = linear(x, p.weight_ih, p.bias_ih)
    uh = linear(h, p.weight_hh, p.bias_hh)
    h = sigmoid(uh[:, :4]) * tanh(wx[:, :4]) + sigmoid(wx[:, 4:] + uh[:, 4:]) * h
    return (h,), h


@case(partial_sources)
class GatesWithoutXOrWithoutState(GatedCell):
    gates = {"g": Gate(state="none"), "u": Gate(x="none"), "b": Gate()}

    def update(self, a, s):
        return sigmoid(a.u) * tanh(a.g) + sigmoid(a.b) * s.h


def no_x(p, x, h):
    h = tanh(linear(h, p.weight_hh, p.bias_hh)) + 0.1 * x.sum(-1, keepdim=True)
    return (h,), h


@case(no_x)
class NoGateReadsX(GatedCell):
    gates = {"u": Gate(x="none")}

    def project(self, x):
        return {"sum": x.sum(-1, keepdim=True)}

    def update(self, a, s):
        return tanh(a.u) + 0.1 * a.x.sum


def no_state(p, x, h):
    f, n = linear(x, p.weight_ih, p.bias_ih).chunk(2, -1)
    h = sigmoid(f) * h + tanh(n)
    return (h,), h


@case(no_state)
class NoGateReadsTheState(GatedCell):
    gates = {"f": Gate(state="none"), "n": Gate(state="none")}

    def update(self, a, s):
        return sigmoid(a.f) * s.h + tanh(a.n)


# -- widths, outputs, initial values, types ----------------------------------------------------


def scrn(p, x, h, context):
    wx = linear(x, p.weight_ih, p.bias_ih)
    context = 0.05 * wx[:, :2] + 0.95 * context
    n = wx[:, 2:] + linear(h, p.weight_hh, p.bias_hh) + linear(context, p.context_to_hidden)
    return (sigmoid(n), context), sigmoid(n)


@case(scrn)
class ContextOfItsOwnWidth(GatedCell):
    """Mikolov et al. 2014 (arXiv:1412.7753): a slow context beside the hidden state."""

    gates = {"b": Gate(state="none", width="context_size"), "n": Gate()}
    states = {"h": State(), "context": State("context_size")}
    extra = {"context_to_hidden": Extra("hidden_size", "context_size")}
    context_size: int = option(2)

    def update(self, a, s):
        context = 0.05 * a.b + 0.95 * s.context
        return sigmoid(a.n + self.product("context_to_hidden", context)), context


def wide_output(p, x, h):
    wx = linear(x, p.weight_ih, p.bias_ih) + linear(h, p.weight_hh, p.bias_hh)
    h = tanh(wx[:, :4])
    return (h,), torch.cat([h, wx[:, 4:]], -1)


@case(wide_output)
class OutputThatIsNoState(GatedCell):
    gates = {"n": Gate(), "y": Gate(width=3)}

    @property
    def output_size(self):
        return self.hidden_size + 3

    def update(self, a, s):
        h = tanh(a.n)
        return (h,), torch.cat([h, a.y], -1)


def normaliser(p, x, h, n):
    wx = linear(x, p.weight_ih, p.bias_ih) + linear(h, p.weight_hh, p.bias_hh)
    n = n + sigmoid(wx[:, 4:])
    h = tanh(wx[:, :4]) / n
    return (h, n), h


@case(normaliser)
class InitialValueOfOne(GatedCell):
    gates = ("k", "i")
    states = {"h": State(initial=-0.5), "n": State(initial=1.0)}

    def update(self, a, s):
        n = s.n + sigmoid(a.i)
        return tanh(a.k) / n, n


def clockwork(p, x, h, t):
    new = tanh(linear(x, p.weight_ih, p.bias_ih) + linear(h, p.weight_hh, p.bias_hh))
    h = torch.where(t % torch.tensor([1, 2, 4, 8]) == 0, new, h)
    return (h, t + 1), h


@case(clockwork)
class StepIndex(GatedCell):
    """Koutník et al. 2014 (arXiv:1402.3511): parts that move at every 1st, 2nd, … step."""

    gates = ("n",)
    states = {"h": State(), "t": State(1, torch.long)}

    def update(self, a, s):
        periods = torch.tensor([1, 2, 4, 8]).to(s.t.device)
        return torch.where(s.t % periods == 0, tanh(a.n), s.h), s.t + 1


def rotating(p, x, h, z):
    angle = torch.complex(torch.cos(p.angle), torch.sin(p.angle))
    z = 0.9 * angle * z + linear(x, p.weight_ih, p.bias_ih)
    return (z.real, z), z.real


@case(rotating)
class ComplexState(GatedCell):
    gates = {"n": Gate(state="none")}
    states = {"h": State(), "z": State(dtype="complex")}
    extra = {"angle": Extra("hidden_size")}

    def update(self, a, s):
        z = 0.9 * torch.complex(torch.cos(self.angle), torch.sin(self.angle)) * s.z + a.n
        return z.real, z


# -- what project may add, and transforms of weights -------------------------------------------


def named_inputs(p, x, h):
    wx = linear(x, p.weight_ih, p.bias_ih) + linear(h, p.weight_hh, p.bias_hh)
    skip, norm = linear(x, p.skip), x.norm(dim=-1, keepdim=True)
    h = sigmoid(wx) * tanh(h) + skip / (1 + norm)
    return (h,), h


@case(named_inputs)
class NamedTensorsOfTheInput(GatedCell):
    gates = ("f",)
    extra = {"skip": Extra("hidden_size", "input_size")}

    def project(self, x):
        return {
            "all": self.project_gates(x),
            "skip": linear(x, self.skip),
            "norm": x.norm(dim=-1, keepdim=True),
        }

    def update(self, a, s):
        return sigmoid(a.f) * tanh(s.h) + a.x.skip / (1 + a.x.norm)


def antisymmetric(p, x, h):
    u = p.weight_hh - p.weight_hh.T - 0.1 * torch.eye(4, dtype=F64)
    h = h + 0.5 * tanh(linear(x, p.weight_ih, p.bias_ih) + linear(h, u, p.bias_hh))
    return (h,), h


@case(antisymmetric, damping=0.1)
class AntisymmetricWeight(GatedCell):
    """Chang et al. 2019 (arXiv:1902.09689)."""

    gates = ("n",)
    damping: float = option(0.01)

    def recurrent_weights(self):
        u = self.weight_hh
        return {"weight_hh": u - u.T - self.damping * torch.eye(self.hidden_size).to(u)}

    def update(self, a, s):
        return s.h + 0.5 * tanh(a.n)


def low_rank(p, x, h):
    wx, u = linear(x, p.weight_ih, p.bias_ih), p.left @ p.right
    z = sigmoid(wx[:, :4] + linear(h, u[:4], p.bias_hh[:4]))
    n = tanh(wx[:, 4:] + linear(z * h, u[4:], p.bias_hh[4:]))
    h = z * h + (1 - z) * n
    return (h,), h


@case(low_rank, rank=2)
class LowRankWeight(GatedCell):
    gates = {"z": Gate(), "n": Gate(late=True)}
    derived = ("weight_hh",)
    extra = {"left": Extra("fused_size", "rank"), "right": Extra("rank", "hidden_size")}
    rank: int = option(1)

    def recurrent_weights(self):
        return {"weight_hh": self.left @ self.right}

    def update(self, a, s):
        z = sigmoid(a.z)
        return z * s.h + (1 - z) * tanh(a.n + self.product("n", z * s.h))


def optional_gate(p, x, *states):
    wx = linear(x, p.weight_ih, p.bias_ih) + linear(states[0], p.weight_hh, p.bias_hh)
    h = sigmoid(wx[:, 4:]) * tanh(wx[:, :4])
    return (h, states[1] + h), h


@case(optional_gate, gated=True)
class DeclarationsThatDependOnOptions(GatedCell):
    gated: bool = option(False)

    @property
    def gates(self):
        return ("n", "o") if self.gated else ("n",)

    @property
    def states(self):
        return ("h", "sum") if self.gated else ("h",)

    def update(self, a, s):
        if not self.gated:
            return tanh(a.n)
        h = sigmoid(a.o) * tanh(a.n)
        return h, s.sum + h


# -- time and masks ----------------------------------------------------------------------------


class Decaying(GatedCell):
    gates = ("n",)
    elapsed_time = True

    def update(self, a, s):
        decay = torch.exp(-a.x.dt)
        return decay * s.h + (1 - decay) * tanh(a.n)


class Dropping(GatedCell):
    """Recurrent dropout of the candidate (Semeniuta et al. 2016), drawn in project."""

    gates = ("n",)
    rate: float = option(0.5)

    def project(self, x):
        projected = self.project_gates(x)
        keep = torch.full_like(projected, 1 - self.rate * self.training)
        return {"all": projected, "mask": torch.bernoulli(keep) / keep}

    def update(self, a, s):
        return s.h + a.x.mask * tanh(a.n)


# -- building ----------------------------------------------------------------------------------


def build(cell, **options) -> RNN:
    """Return an RNN of the cell in float64 with random parameters."""
    torch.manual_seed(0)  # for buffers that are drawn
    rnn = RNN(cell, *SIZES, dtype=F64, **options)
    shake(rnn)
    return rnn
