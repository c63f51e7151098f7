"""What a cell may declare, by cells that only exist here, each against plain torch written out.

A case is a cell and its step as a function of the parameters `p`, one step's x and the states.
"""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch
from commands import LEAKY
from helpers import (
    F64,
    assert_packed_is_alone,
    assert_same,
    everything,
    in_form,
    normal,
    random_state,
    shake,
    tensors,
    with_gradient,
    written_out,
)
from torch import sigmoid, tanh
from torch.nn.functional import linear
from torch.nn.utils.rnn import pack_padded_sequence

from cellzoo import RNN, Extra, Gate, GatedCell, State, build_cell, option
from cellzoo.cells.registry import cells
from cellzoo.engines import EngineError

CASES: list = []
SIZES = (3, 4)  # input, hidden


def case(step, **options):
    """The class, to be tested against `step(p, x, [dt,] *states)`."""

    def decorate(cls):
        CASES.append(pytest.param(cls, step, options, id=cls.__name__))
        return cls

    return decorate


def rows(tensor, number, *, of):
    """One gate's rows of a fused parameter whose gates are alike."""
    return tensor.chunk(of)[number]


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
    """Late gates first in the weight, used last; one of them twice."""

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
    """They do not lie side by side in the weight."""

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
    """Its gradient cannot be summed over the batch unit by unit."""

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
    """A block-diagonal matrix from its blocks' rows, (heads · n, m) with heads = 2."""
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
    """Gates in the order c, h, (d, h), c, c: fused by operand, split by name."""

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


# -- every case --------------------------------------------------------------------------------


def build(cell, **options) -> RNN:
    torch.manual_seed(0)  # of buffers that are drawn
    rnn = RNN(cell, *SIZES, dtype=F64, **options)
    shake(rnn)
    return rnn


STACKS = [{}, {"num_layers": 2, "bidirectional": True}]


@pytest.mark.parametrize("stack", STACKS, ids=["one layer", "two layers, both directions"])
@pytest.mark.parametrize(("cell", "step", "options"), CASES)
def test_equals_what_is_written_out(cell, step, options, stack):
    rnn = build(cell, **options, **stack)
    x, state = normal(4, 2, 3), random_state(rnn, 2)
    inputs = with_gradient(x=x, **{f"s{i}": s for i, s in enumerate(state)})
    inputs |= dict(rnn.named_parameters())
    got = everything(*rnn(x, in_form(state)), inputs)
    assert_same(got, everything(*written_out(rnn, step, x, state), inputs))
    zero = in_form(tuple(s.detach() for s in tensors(rnn.initial_state(2))))
    want = written_out(rnn, step, x, tensors(zero))
    for result in (rnn(x), rnn(x, zero)):
        torch.testing.assert_close(result[0], want[0])
        torch.testing.assert_close(tensors(result[1]), want[1])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("cell", "step", "options"), CASES)
def test_packed_chunked_and_by_steps(cell, step, options, bias):
    rnn = build(cell, bidirectional=True, bias=bias, **options)
    assert_packed_is_alone(rnn, [1, 3, 2], enforce_sorted=False)
    rnn = build(cell, num_layers=2, bias=bias, **options)
    x = normal(7, 2, 3)
    whole, end = rnn(x)
    first, middle = rnn(x[:3])
    second, carried = rnn(x[3:], middle)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(tensors(carried), tensors(end))
    rnn, state = build(cell, bias=bias, **options), None
    want, one = rnn(x)[0], rnn.cell()
    for t in range(7):
        y, state = one.step(x[t], state)
        torch.testing.assert_close(y, want[t])
    assert rnn(torch.zeros(2, 0, 3, dtype=F64))[0].shape == (2, 0, rnn.output_size)


@pytest.mark.parametrize(("cell", "step", "options"), CASES)
def test_every_gate_has_views_of_its_weights(cell, step, options):
    rnn = build(cell, **options)
    for gate, weights in rnn.gate_weights().items():
        declared = rnn.cell().layout.gates[gate]
        assert (weights.weight_ih is None) == (declared.x == "none")
        assert (weights.bias_hh is None) == (declared.state == "none")

        def run():
            output, state = rnn(normal(3, 2, 3))
            return torch.cat([t.real.double().flatten() for t in (output, *tensors(state))])

        before = run()
        for block in weights:
            if block is not None:
                with torch.no_grad():
                    block.add_(normal(*block.shape, seed=8))
                after = run()
                assert not torch.allclose(before, after), gate
                before = after


def test_initial_values():
    h, n = build(InitialValueOfOne, num_layers=2).initial_state(3)
    assert h.equal(torch.full((2, 3, 4), -0.5, dtype=F64))
    assert n.equal(torch.ones(2, 3, 4, dtype=F64))
    h, t = build(StepIndex).initial_state(2)
    assert (t.dtype, t.shape) == (torch.long, (1, 2, 1))
    assert build(ComplexState).initial_state(2)[1].dtype == torch.complex128


# -- time --------------------------------------------------------------------------------------


class Decaying(GatedCell):
    gates = ("n",)
    elapsed_time = True

    def update(self, a, s):
        decay = torch.exp(-a.x.dt)
        return decay * s.h + (1 - decay) * tanh(a.n)


def decaying(p, x, dt, h):
    n = tanh(linear(x, p.weight_ih, p.bias_ih) + linear(h, p.weight_hh, p.bias_hh))
    h = torch.exp(-dt) * h + (1 - torch.exp(-dt)) * n
    return (h,), h


@pytest.mark.parametrize("stack", STACKS)
def test_elapsed_time(stack):
    rnn = build(Decaying, **stack)
    x, dt, state = normal(4, 2, 3), normal(4, 2, seed=4), random_state(rnn, 2)
    inputs = {"x": x, "dt": dt, "s": state[0]} | dict(rnn.named_parameters())
    got = everything(*rnn(x, *state, dt), inputs)
    assert_same(got, everything(*written_out(rnn, decaying, x, state, dt), inputs))
    ones = torch.ones(4, 2, dtype=F64)
    torch.testing.assert_close(rnn(x), rnn(x, dt=ones), rtol=0, atol=0)
    assert not torch.allclose(rnn(x)[0], rnn(x, dt=2 * ones)[0])
    first = build(Decaying, batch_first=True, **stack)
    torch.testing.assert_close(first(x.transpose(0, 1), dt=dt.T)[0].transpose(0, 1),
                               rnn(x, dt=dt)[0])  # fmt: skip
    torch.testing.assert_close(rnn(x[:, 0], dt=dt[:, 0])[0], rnn(x, dt=dt)[0][:, 0])


def test_elapsed_time_packed_and_by_steps():
    rnn = build(Decaying, bidirectional=True)
    x, dt = normal(4, 3, 3), normal(4, 3, seed=4)
    lengths = torch.tensor([2, 4, 1])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    rows = pack_padded_sequence(dt, lengths, enforce_sorted=False).data
    output, _ = torch.nn.utils.rnn.pad_packed_sequence(rnn(packed, dt=rows)[0])
    for b, length in enumerate(lengths):
        alone = rnn(x[:length, b], dt=dt[:length, b])[0]
        torch.testing.assert_close(output[:length, b], alone)
    rnn, state = build(Decaying), None
    for t in range(4):
        y, state = rnn.cell().step(x[t], state, dt[t])
        torch.testing.assert_close(y, rnn(x, dt=dt)[0][t])
    torch.testing.assert_close(rnn.cell().step(x[0])[0], rnn(x)[0][0])


def test_elapsed_time_of_the_wrong_kind_is_refused():
    rnn, x = build(Decaying), normal(4, 2, 3)
    for wrong in (torch.ones(4, 2, 1), torch.ones(2, 4), torch.ones(4)):
        with pytest.raises(ValueError, match=r"dt must be \(4, 2\)"):
            rnn(x, dt=wrong.to(F64))
    with pytest.raises(TypeError, match="dt must be a tensor"):
        rnn(x, dt=0.5)
    assert rnn(x, dt=torch.ones(4, 2))[0].dtype == F64  # float32 and whole numbers are times too
    assert rnn.float()(x.float(), dt=torch.ones(4, 2, dtype=F64))[0].dtype == torch.float32
    for cell in ("lstm", "peephole_lstm"):
        for engine in ("loop", "auto"):
            with pytest.raises(ValueError, match=f"{cell} takes no elapsed time"):
                build(cell, engine=engine)(x, dt=torch.ones(4, 2, dtype=F64))


# -- masks -------------------------------------------------------------------------------------


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


def test_masks_are_drawn_in_project():
    rnn, x = build(Dropping), normal(4, 2, 3)
    torch.manual_seed(1)
    got = rnn(x)[0]
    torch.manual_seed(1)
    masks = torch.bernoulli(torch.full((4, 2, 4), 0.5, dtype=F64)) / 0.5
    h = torch.zeros(2, 4, dtype=F64)
    for t in range(4):
        a = linear(x[t], rnn.weight_ih_l0, rnn.bias_ih_l0)
        h = h + masks[t] * tanh(a + linear(h, rnn.weight_hh_l0, rnn.bias_hh_l0))
        torch.testing.assert_close(got[t], h)
    assert not torch.allclose(rnn(x)[0], rnn(x)[0])
    rnn.eval()
    torch.testing.assert_close(rnn(x)[0], rnn(x)[0], rtol=0, atol=0)


# -- options -----------------------------------------------------------------------------------


class Choosy(GatedCell):
    gates = ("n",)
    leak: float = option(0.9, "how much of h stays")
    mode: str = option("a", choices=("a", "b"))
    depth: int = option(1)
    flag: bool = option(False)
    limit: float | None = option(None)

    def update(self, a, s):
        return self.leak * s.h + (1 - self.leak) * tanh(a.n)


def test_options():
    cell = build_cell(Choosy, 3, 4)
    assert cell.options == {"leak": 0.9, "mode": "a", "depth": 1, "flag": False, "limit": None}
    cell = build_cell(Choosy, 3, 4, leak=1, mode="b", limit=2.0)
    assert (cell.leak, cell.mode, cell.limit, cell.depth) == (1, "b", 2.0, 1)
    rnn = build(Choosy, leak=1.0)
    assert rnn(normal(3, 2, 3))[0].abs().sum() == 0
    assert "leak=1.0" in repr(rnn)
    assert "mode" not in repr(rnn)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lek": 0.5}, TypeError, "Choosy has no option 'lek': did you mean 'leak'"),
        ({"leak": "0.5"}, TypeError, "leak must be of type float, not '0.5'"),
        ({"leak": True}, TypeError, "leak must be of type float, not True"),
        ({"leak": None}, TypeError, "leak must be of type float, not None"),
        ({"depth": 1.0}, TypeError, "depth must be of type int, not 1.0"),
        ({"depth": True}, TypeError, "depth must be of type int, not True"),
        ({"flag": 1}, TypeError, "flag must be of type bool, not 1"),
        ({"mode": "c"}, ValueError, "mode must be one of 'a', 'b', not 'c'"),
        ({"mode": 1}, TypeError, "mode must be of type str, not 1"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    for kind in (RNN, build_cell):
        with pytest.raises(error, match=message):
            kind(Choosy, 3, 4, **options)
    with pytest.raises(TypeError, match="gru has no option 'leak': it has none"):
        RNN("gru", 3, 4, leak=0.5)


def test_a_subclass_may_fix_change_or_add_options():
    class Fixed(Choosy):
        leak = 0.25
        depth: int = option(7)
        more: int = option(3)

    cell = build_cell(Fixed, 3, 4)
    assert (cell.leak, cell.depth, cell.more) == (0.25, 7, 3)
    with pytest.raises(TypeError, match="no option 'leak'"):
        build_cell(Fixed, 3, 4, leak=0.5)


# -- engines -----------------------------------------------------------------------------------


class LoopOnly(GatedCell):
    gates = ("n",)
    engines = ("loop",)
    engines_reason = "its solver steps until it converges"

    def update(self, a, s):
        return tanh(a.n)


def test_a_cell_may_name_its_engines():
    rnn = build(LoopOnly)
    assert rnn.explain() == (
        "loop (chosen); native declined: its solver steps until it converges"
    )  # fmt: skip
    rnn(normal(3, 2, 3))
    with pytest.raises(EngineError, match="cannot run LoopOnly: its solver steps until"):
        build(LoopOnly, engine="native")


# -- declarations that cannot be ---------------------------------------------------------------


def declares(**attributes):
    return type("Bad", (GatedCell,), {"update": lambda self, a, s: s.h, **attributes})


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ({}, TypeError, "must declare its gates"),
        ({"gates": ("n",), "states": ()}, TypeError, "must declare its gates and its states"),
        ({"gates": ("n",), "modules": option(3)}, TypeError, "option cannot be called 'modules'"),
        ({"gates": ("n", "n")}, TypeError, "'n' .*twice"),
        ({"gates": ("n",), "states": ("h", "h")}, TypeError, "'h' .*twice"),
        ({"gates": ("a b",)}, TypeError, "'a b' cannot be the name"),
        ({"gates": ("_n",)}, TypeError, "'_n' cannot be the name"),
        ({"gates": ("lambda",)}, TypeError, "'lambda' cannot be the name"),
        ({"gates": ("all",)}, TypeError, "'all' cannot be the name"),
        ({"gates": ("n",), "states": ("dt",)}, TypeError, "'dt' cannot be the name"),
        ({"gates": ("x",)}, TypeError, "gate cannot be called 'x'"),
        ({"gates": ("h",)}, TypeError, "gate cannot be called 'h'"),
        ({"gates": {"n": Gate(of="z")}}, TypeError, "gate 'n' reads .*'z'.* no state"),
        ({"gates": {"n": Gate(of=("h", "z"))}}, TypeError, "gate 'n' reads .*'z'.* no state"),
        ({"gates": {"r": Gate(), "n": Gate(of="r")}}, TypeError, "gate 'n' reads .*'r'"),
        ({"gates": {"n": Gate(state="diagonal", width=3)}}, ValueError, "'n' is not square"),
        ({"gates": {"n": Gate(state="heads", heads=3)}}, ValueError, "does not divide into 3"),
        ({"gates": {"n": Gate(state="heads", heads=2), "m": Gate(state="heads", heads=4)}},
         ValueError, "'m'.*4 .*like the other gates"),
        ({"gates": {"n": Gate(state="heads", heads=2),
                    "m": Gate(state="heads", heads=2, width=8)}}, ValueError, "'m'.*8 × 4"),
        ({"gates": {"n": Gate(), "m": Gate(of=("h", "d")), "k": Gate(of="h_d")},
          "states": ("h", "d", "h_d")}, TypeError, "weight_hh_h_d"),
        ({"gates": ("n",), "keep": {"f": 1}}, TypeError, "keep maps a gate to .1 or −1, not 'f'"),
        ({"gates": ("n",), "keep": {"n": 2}}, TypeError, "keep maps"),
        ({"gates": ("n",), "write": {"n": 0}}, TypeError, "write maps"),
        ({"gates": ("n",), "write": {"i": 1}}, TypeError, "write maps"),
        ({"gates": ("n",), "extra": {"weight_ih": Extra(3)}}, TypeError, "'weight_ih'.*taken"),
        ({"gates": ("n",), "extra": {"bias_hh": Extra(3)}}, TypeError, "'bias_hh'.*taken"),
        ({"gates": ("n",), "extra": {"step": Extra(3)}}, TypeError, "'step'.*taken"),
        ({"gates": ("n",), "extra": {"n": Extra(4, 4)}}, TypeError, "'n'.*taken"),
        ({"gates": ("n",), "derived": ("weight_hz",)}, TypeError, "weight_hz.*weight_hh"),
        ({"gates": ("n",), "biases": ("hi",)}, TypeError, "'hi'"),
        ({"gates": {"n": Gate(x="none", state="none")}}, TypeError, "no parameters"),
    ],
)  # fmt: skip
def test_bad_declarations_are_refused_at_build(attributes, error, message):
    for kind in (RNN, build_cell):
        with pytest.raises(error, match=message):
            kind(declares(**attributes), 3, 4)


def test_gates_that_cannot_be_are_refused_where_they_are_declared():
    with pytest.raises(ValueError, match="x is full or none, not 'ful'"):
        Gate(x="ful")
    with pytest.raises(ValueError, match=r"state is full, diagonal, .*not 'diag'"):
        Gate(state="diag")
    with pytest.raises(ValueError, match="a late gate has a recurrent block"):
        Gate(state="none", late=True)


@pytest.mark.parametrize("gates", ["z", ("n", "z"), "f", ("n", "f"), ()])
def test_products_that_were_not_declared_are_refused(gates):
    class Bad(OneLateProduct):
        def update(self, a, s):
            self.product(gates, s.h)
            return s.h

    with pytest.raises(ValueError, match="no late product"):
        RNN(Bad, 3, 4)


def test_named_tensors_may_not_hide_a_gate():
    class Bad(GatedCell):
        gates = ("n", "m")

        def project(self, x):
            return {"all": self.project_gates(x), "n": x}

        def update(self, a, s):
            return a.m

    with pytest.raises(ValueError, match=r"project.* 'n'"):
        RNN(Bad, 3, 4)


def test_a_gate_and_a_state_may_share_a_name():
    class Shared(GatedCell):
        gates = {"c": Gate(width=2), "k": Gate(of="c")}
        states = {"h": State(), "c": State(5)}

        def update(self, a, s):
            return tanh(a.k), tanh(s.c + a.c.sum(-1, keepdim=True))

    rnn = build(Shared)
    assert rnn.weight_hh_c_l0.shape == (4, 5)
    rnn(normal(3, 2, 3))


def test_states_of_different_widths_in_different_layers_are_refused():
    class Remembers(GatedCell):
        """The previous input is a state, as wide as the layer's input."""

        gates = ("n",)
        states = {"h": State(), "before": State("input_size")}

        def project(self, x):
            return {"all": self.project_gates(x), "now": x}

        def update(self, a, s):
            return tanh(a.n + s.before.sum(-1, keepdim=True)), a.x.now

    rnn = build(Remembers, bidirectional=True)
    x = normal(4, 2, 3)
    _, (_, before) = rnn(x)
    torch.testing.assert_close(before, torch.stack([x[-1], x[0]]))
    assert_packed_is_alone(rnn, [2, 3, 1], enforce_sorted=False)
    assert RNN(Remembers, 4, 4, num_layers=2)(torch.zeros(2, 1, 4))[1][1].shape == (2, 1, 4)
    with pytest.raises(ValueError, match=r"state 'before' .*layer"):
        build(Remembers, num_layers=2)


# -- the example of the README -----------------------------------------------------------------


def leaky(p, x, h, c):
    wx = linear(x, p.weight_ih, p.bias_ih) + linear(h, p.weight_hh, p.bias_hh)
    i, f, g, o = wx.chunk(4, -1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = 0.9 * h + 0.1 * sigmoid(o) * tanh(c)
    return (h, c), h


def test_a_cell_in_a_file_of_its_own(tmp_path):
    path = tmp_path / "leaky.py"
    path.write_text(LEAKY.replace("leaky_lstm", "leaky_lstm_of_a_test"))
    spec = importlib.util.spec_from_file_location("leaky_of_a_test", path)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rnn = build("leaky_lstm_of_a_test", num_layers=2, bidirectional=True, dropout=0.1)
            rnn.eval()
        x, state = normal(4, 2, 3), random_state(rnn, 2)
        inputs = {"x": x, "h": state[0], "c": state[1]} | dict(rnn.named_parameters())
        got = everything(*rnn(x, state), inputs)
        assert_same(got, everything(*written_out(rnn, leaky, x, state), inputs))
        assert_packed_is_alone(rnn, [1, 3, 2], enforce_sorted=False)
        assert rnn.explain().startswith("loop")
        for init in ("glorot", "orthogonal", "identity", "normal", "zeros"):
            RNN("leaky_lstm_of_a_test", 3, 4, init=init)
    finally:
        cells.forget(["leaky_lstm_of_a_test"])
