"""The scan engine against the loop, and its recurrence against a plain one in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
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
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import sigmoid, tanh
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad

from cellzoo import RNN, Extra, Gate, GatedCell, State, list_cells
from cellzoo.cells.linear import recur
from cellzoo.cells.registry import cells
from cellzoo.engines import EngineError, fastest, scan

none = Gate(state="none")


class Decays(GatedCell):
    """Decays of any size and sign, some exactly 0, and one for all steps."""

    gates = {"a": none, "b": none}
    states = ("h", "e")
    extra = {"fixed": Extra("hidden_size")}
    linear = True

    def update(self, a, s):
        h = recur(s.h, torch.relu(a.a) - torch.relu(-a.a - 1), a.b)
        return h, recur(s.e, self.fixed, h * a.a)


class Window(GatedCell):
    """Coefficients of the step before: a state that keeps nothing of itself."""

    gates = {"f": none, "n": none}
    states = {"c": State(), "old": State(8)}
    linear = True

    def update(self, a, s):
        old = recur(s.old, None, a.x.all)
        f, n = self.split(s.old + 0.5 * a.x.all)
        c = recur(s.c, sigmoid(f), tanh(n))
        return (c, old), c * sigmoid(a.n)


class Rotating(GatedCell):
    """A complex state, a product in the output, and the elapsed time."""

    gates = {"n": none}
    states = {"z": State(dtype="complex")}
    extra = {"angle": Extra("hidden_size"), "mix": Extra("hidden_size", "hidden_size")}
    linear = True
    elapsed_time = True

    def update(self, a, s):
        turn = torch.polar(0.9 + 0 * self.angle, self.angle)
        z = recur(s.z, turn * a.x.dt, torch.complex(a.n, 0.3 * a.n))
        return (z,), self.product("mix", z.real) - z.imag


LINEAR = [name for name in list_cells() if cells[name].linear]
CASES = [*LINEAR, Decays, Window, Rotating]


def build(cell, engine="scan", **stack):
    rnn = RNN(cell, 3, 4, dtype=F64, engine=engine, **stack)
    shake(rnn)
    return rnn


def run_everything(rnn, steps, batch, seed=0):
    x, state = normal(steps, batch, 3, seed=seed), random_state(rnn, batch, seed)
    dt = normal(steps, batch, seed=seed + 1).exp() if rnn.cell().elapsed_time else None
    inputs = with_gradient(x=x, **{f"s{i}": s for i, s in enumerate(state)})
    inputs |= dict(rnn.named_parameters())
    return everything(*rnn(x, in_form(state), dt), inputs)


@pytest.fixture(params=[1, 10**9], ids=["one by one", "by pairs"])
def _both_ways(request, monkeypatch):
    monkeypatch.setattr(scan, "WIDE", request.param)


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("cell", CASES)
@settings(max_examples=12)
@given(
    steps=st.integers(1, 40),
    batch=st.integers(0, 3),
    stack=st.sampled_from([{}, {"num_layers": 2, "bidirectional": True}]),
    seed=st.integers(0, 10**6),
)
def test_equals_the_loop(cell, steps, batch, stack, seed):
    got = run_everything(build(cell, **stack), steps, batch, seed)
    want = run_everything(build(cell, engine="loop", **stack), steps, batch, seed)
    assert got.keys() == want.keys()
    for name in want:
        size = want[name].abs().max().item() if want[name].numel() else 0.0
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-11 * max(1.0, size))


@given(
    steps=st.integers(1, 70),
    backwards=st.booleans(),
    complex_=st.booleans(),
    wide=st.sampled_from([1, 10**9]),
    seed=st.integers(0, 10**6),
)
def test_the_recurrence(steps, backwards, complex_, wide, seed):
    random = np.random.default_rng(seed)

    def draw(*shape):
        values = random.normal(size=shape)
        return values + 1j * random.normal(size=shape) if complex_ else values

    decay, drive, initial = draw(steps, 2, 3), draw(steps, 2, 3), draw(2, 3)
    decay *= random.random(size=decay.shape) < 0.7  # the others forget everything
    now, want = initial, np.empty_like(drive)
    for t in reversed(range(steps)) if backwards else range(steps):
        now = want[t] = decay[t] * now + drive[t]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "WIDE", wide)
        got = scan._scan(*map(torch.from_numpy, (decay, drive, initial)), backwards)
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-12 * max(1, abs(want).max()))


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_first_and_second_derivatives(dtype, backwards):
    def leaf(*shape, seed):
        parts = normal(2, *shape, seed=seed).detach()
        return (parts[0] if dtype == F64 else torch.complex(*parts)).requires_grad_()

    inputs = leaf(5, 2, seed=1), leaf(5, 2, seed=2), leaf(2, seed=3)

    def run(*inputs):
        return scan._Scan.apply(*inputs, backwards)

    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs)


@pytest.mark.parametrize("cell", CASES)
def test_packed(cell):
    if not (cells[cell] if isinstance(cell, str) else cell).elapsed_time:
        assert_packed_is_alone(build(cell, bidirectional=True), [1, 5, 2, 5], enforce_sorted=False)


def test_packed_with_elapsed_times():
    rnn = build(Rotating)
    x, dt = normal(4, 2, 3).detach(), normal(4, 2, seed=1).detach().exp()
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, [4, 2])
    times = torch.nn.utils.rnn.pack_padded_sequence(dt, [4, 2]).data
    output, _ = torch.nn.utils.rnn.pad_packed_sequence(rnn(packed, dt=times)[0])
    torch.testing.assert_close(output[:, 0], rnn(x, dt=dt)[0][:, 0])
    torch.testing.assert_close(output[:2, 1], rnn(x[:2], dt=dt[:2])[0][:, 1])


@pytest.mark.parametrize("steps", [1, 3, 100])
def test_fewer_saved_states_give_the_same(steps):
    results = []
    for checkpoint in (None, steps):
        rnn = build(Window, num_layers=2, bidirectional=True, checkpoint_steps=checkpoint)
        results.append(run_everything(rnn, 7, 2))
    assert_same(*results)


def test_a_decay_of_zero_forgets_whatever_was_there():
    """No quotient and no logarithm: what a decay of 0 ends may be infinite."""
    decay = torch.tensor([2.0, 0.0, 1.0], dtype=F64).unsqueeze(1)
    drive = torch.tensor([1e308, 3.0, 4.0], dtype=F64).unsqueeze(1)
    for backwards, want in ((False, [1e308, 3.0, 7.0]), (True, [1e308, 3.0, 4.0])):
        got = scan._scan(decay, drive, torch.zeros(1, dtype=F64), backwards)
        assert got[:, 0].tolist() == want


def test_long_sequences_in_float32_are_as_exact_as_the_loop():
    def run(engine, dtype):
        torch.manual_seed(0)
        rnn = RNN("mingru", 8, 16, dtype=F64, engine=engine, init={"name": "torch"}).to(dtype)
        with torch.no_grad():
            rnn.gate_weights()["z"].bias_ih.fill_(-6.0)  # a memory of 400 steps
        return rnn(normal(2000, 2, 8).detach().to(dtype))[0].detach().double()

    exact = run("loop", F64)
    off = [(run(engine, torch.float32) - exact).abs().max() for engine in ("loop", "scan")]
    assert off[1] < 2 * off[0] + 1e-7


@pytest.mark.parametrize("cell", ["mingru", "qrnn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_as_far_from_float64_as_the_loop(cell, dtype):
    """float32 here is under autocast: products in bfloat16, states float32."""

    def run(engine, dtype, autocast=False):
        torch.manual_seed(0)
        rnn = RNN(cell, 8, 16, engine=engine, dtype=F64).to(dtype)
        x = normal(12, 4, 8).detach().to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output, state = rnn(x)
        assert {t.dtype for t in (output, *tensors(state))} == {dtype}
        output.sum().backward()
        found = {"output": output, "x": x.grad, **{n: p.grad for n, p in rnn.named_parameters()}}
        return {name: tensor.detach().double() for name, tensor in found.items()}

    exact = run("loop", F64)
    loop, scanned = (run(e, dtype, dtype == torch.float32) for e in ("loop", "scan"))
    for name, want in exact.items():
        off = [((got[name] - want).norm() / want.norm()).item() for got in (loop, scanned)]
        assert off[1] < 2 * off[0] + 1e-3, name


def test_auto_takes_it_where_it_can():
    rnn = RNN("mingru", 3, 4)
    x = torch.zeros(5, 2, 3)
    assert rnn.explain() == "scan (chosen); native declined: torch.nn has no kernel for mingru"
    assert "scan" in fastest(rnn.cell())
    assert "scan" not in fastest(RNN("lstm", 3, 4).cell())
    assert "scan" not in RNN("gru_v1", 3, 4).explain()
    with pytest.raises(EngineError, match="states do not enter linearly"):
        RNN("gru", 3, 4, engine="scan")

    def loss(parameters):
        return functional_call(rnn, parameters, (x,))[0].sum()

    parameters = {name: p.detach() for name, p in rnn.named_parameters()}
    assert grad(loss)(parameters).keys() == parameters.keys()  # by the loop
    assert rnn.ran.startswith("loop (chosen)")
    assert "torch.func" in rnn.ran


def test_it_is_exported():
    rnn = RNN("mingru", 3, 4)
    x = torch.zeros(5, 2, 3)
    exported = torch.export.export(rnn, (x,)).module()
    torch.testing.assert_close(exported(x)[0], rnn(x)[0])


class ReadsTooEarly(GatedCell):
    gates = {"n": none}
    linear = True

    def update(self, a, s):
        return recur(s.h, tanh(a.n), s.h * a.n)


class ReadsTooEarlyAmongOthers(GatedCell):
    gates = {"n": none}
    linear = True

    def update(self, a, s):
        return recur(s.h, tanh(a.n), torch.stack([s.h, a.n]).sum(0))


class MovesOtherwise(GatedCell):
    gates = {"n": none}
    linear = True

    def update(self, a, s):
        return tanh(recur(s.h, a.n, a.n))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (ReadsTooEarly, "state 'h' is read before recur"),
        (ReadsTooEarlyAmongOthers, "state 'h' is read before recur"),
        (MovesOtherwise, "recur must return its state 'h'"),
    ],
)
def test_what_is_not_linear_is_refused(cell, message):
    with pytest.raises(EngineError, match=message):
        RNN(cell, 3, 4, engine="scan")(torch.zeros(2, 1, 3))


def test_a_linear_cells_gates_read_no_state():
    class ReadsTheState(GatedCell):
        gates = ("n",)
        linear = True

    with pytest.raises(TypeError, match="is linear: gate 'n' cannot read a state"):
        RNN(ReadsTheState, 3, 4)


@pytest.mark.parametrize("cell", LINEAR)
def test_the_state_is_carried_on(cell):
    rnn = build(cell)
    x, state = normal(9, 2, 3).detach(), random_state(rnn, 2)
    whole, final = rnn(x, in_form(state))
    first, middle = rnn(x[:4], in_form(state))
    second, end = rnn(x[4:], middle)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    for got, want in zip(tensors(end), tensors(final), strict=True):
        torch.testing.assert_close(got, want)
