"""Initialisation: the property of each scheme in each gate, overrides, and the forget bias."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import in_form, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import sigmoid, tanh

from cellzoo import RNN, Extra, Gate, GatedCell, Init, State, list_inits, register_init

SCHEMES = ["constant", "glorot", "identity", "normal", "orthogonal", "torch", "zeros"]


def make(cell="lstm", input_size=6, hidden_size=8, **options) -> RNN:
    torch.manual_seed(options.pop("seed", 0))
    return RNN(cell, input_size, hidden_size, **options)


def recurrent_blocks(rnn):
    return [w.weight_hh.detach() for w in rnn.gate_weights().values()]


def test_the_schemes_are_those_tested_here():
    assert set(list_inits()) >= set(SCHEMES)


# -- schemes -----------------------------------------------------------------------------------


@given(
    hidden=st.integers(2, 12),
    cell=st.sampled_from(["lstm", "gru", "elman"]),
    gain=st.sampled_from([1.0, 0.5]),
)
def test_orthogonal_makes_each_gates_recurrent_block_orthogonal(hidden, cell, gain):
    rnn = make(cell, 3, hidden, num_layers=2, init={"name": "orthogonal", "gain": gain})
    for layer in (0, 1):
        for w in rnn.gate_weights(layer).values():
            u = w.weight_hh.detach()
            torch.testing.assert_close(u @ u.T, gain**2 * torch.eye(hidden), atol=1e-5, rtol=0)
            bound = math.sqrt(
                6 / (hidden + w.weight_ih.shape[1])
            )  # of the companion scheme, glorot
            assert 0 < w.weight_ih.abs().max() <= bound
            assert w.bias_ih.eq(0).all()
            assert w.bias_hh.eq(0).all()
    if cell != "elman":
        first, second = recurrent_blocks(rnn)[:2]
        assert not torch.allclose(first, second)


def test_identity():
    rnn = make(init={"name": "identity", "gain": 0.5})
    for u in recurrent_blocks(rnn):
        assert u.equal(0.5 * torch.eye(8))
    assert rnn.bias_ih_l0.eq(0).all()
    assert rnn.weight_ih_l0.std() > 0.1


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_glorots_bound_is_that_of_a_gates_block(gain):
    rnn = make("gru", 30, 50, init={"name": "glorot", "gain": gain})
    for w in rnn.gate_weights().values():
        for block, columns in ((w.weight_ih, 30), (w.weight_hh, 50)):
            bound = gain * math.sqrt(6 / (50 + columns))
            assert 0.98 * bound < block.abs().max() <= bound
            assert abs(block.std() / (bound / math.sqrt(3)) - 1) < 0.05
        assert w.bias_ih.eq(0).all()


def test_normals_standard_deviation():
    rnn = make("gru", 30, 50, init={"name": "normal", "std": 0.3})
    for w in rnn.gate_weights().values():
        for block in (w.weight_ih, w.weight_hh):
            assert abs(block.std() - 0.3) < 0.02
            assert abs(block.mean()) < 0.03
        assert w.bias_ih.eq(0).all()
    assert abs(make("gru", 30, 50, init="normal").weight_hh_l0.std() - 0.1) < 0.01


@pytest.mark.parametrize("cell", ["lstm", "peephole_lstm"])
def test_torchs_bound_is_that_of_the_hidden_size(cell):
    rnn = make(cell, 30, 40)
    bound = 1 / math.sqrt(40)
    for name, parameter in rnn.named_parameters():
        assert 0.8 * bound < parameter.abs().max() <= bound, name
        assert abs(parameter.std() / (bound / math.sqrt(3)) - 1) < 0.2, name


def test_torchs_numbers_are_torch_nns():
    torch.manual_seed(5)
    theirs = torch.nn.LSTM(3, 4, 2, bidirectional=True)
    ours = make("lstm", 3, 4, num_layers=2, bidirectional=True)
    torch.manual_seed(5)
    ours.reset_parameters()
    for name, parameter in theirs.named_parameters():
        assert parameter.equal(ours.get_parameter(name)), name


def test_zeros_and_constant():
    assert all(p.eq(0).all() for p in make(init="zeros").parameters())
    rnn = make(init={"name": "constant", "value": 0.25})
    assert all(p.eq(0.25).all() for p in rnn.parameters())


@pytest.mark.parametrize("init", SCHEMES)
def test_a_parameter_with_a_value_of_its_own_keeps_it(init):
    rnn = make("layernorm_lstm", init=init)
    assert rnn.gain_ih_l0.eq(1).all()
    assert rnn.bias_c_l0.eq(0).all()


class Heads(GatedCell):
    gates = {"f": Gate(state="heads", heads=2), "n": Gate(state="heads", heads=2),
             "d": Gate(state="diagonal"), "late": Gate(late=True)}  # fmt: skip
    keep = {"f": +1}

    def update(self, a, s):
        f = sigmoid(a.f + a.d)
        return f * s.h + (1 - f) * tanh(a.n + self.product("late", tanh(a.late)))


def test_schemes_of_heads_and_diagonals():
    rnn = make(Heads, init="orthogonal")
    for head in rnn.weight_hh_heads_l0.chunk(4):  # two gates of two heads
        torch.testing.assert_close(head @ head.T, torch.eye(4), atol=1e-5, rtol=0)
    assert rnn.weight_hh_diagonal_l0.eq(1).all()
    assert make(Heads, init={"name": "identity", "gain": 3.0}).weight_hh_diagonal_l0.eq(3).all()
    bound = 1 / math.sqrt(8)
    assert 0 < make(Heads, init="glorot").weight_hh_diagonal_l0.abs().max() <= bound


@pytest.mark.parametrize("init", SCHEMES)
@pytest.mark.parametrize("cell", ["peephole_lstm", "layernorm_lstm", "gru_v1", Heads])
def test_the_seed_decides(cell, init):
    one, same, other = (make(cell, seed=seed, init=init) for seed in (3, 3, 4))
    for name, parameter in one.named_parameters():
        assert torch.isfinite(parameter).all()
        assert parameter.equal(same.get_parameter(name))
    drawn = any(not p.equal(q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert drawn == (init not in ("zeros", "constant"))
    torch.manual_seed(3)
    state = {name: p.clone() for name, p in one.named_parameters()}
    one.reset_parameters()
    again = make(cell, seed=3, init=init)
    torch.manual_seed(3)
    again.reset_parameters()
    for name, parameter in one.named_parameters():
        assert parameter.equal(again.get_parameter(name))
        assert state[name].shape == parameter.shape


# -- overrides ---------------------------------------------------------------------------------


def test_blocks_by_matrix_and_by_gate():
    blocks = {
        "weight_ih": "zeros",
        "weight_hh": {"f": "identity", "g": {"name": "orthogonal", "gain": 2.0}},
        "bias_ih": {"o": {"name": "constant", "value": -3.0}},
        "peephole_i": {"name": "constant", "value": 0.5},
    }
    rnn = make("peephole_lstm", init={"name": "normal", "std": 0.3, "blocks": blocks})
    weights = rnn.gate_weights()
    assert rnn.weight_ih_l0.eq(0).all()
    assert weights["f"].weight_hh.equal(torch.eye(8))
    g = weights["g"].weight_hh.detach()
    torch.testing.assert_close(g @ g.T, 4 * torch.eye(8), atol=1e-5, rtol=0)
    assert 0.2 < weights["i"].weight_hh.std() < 0.4
    assert {gate: w.bias_ih.unique().tolist() for gate, w in weights.items()} == {
        "i": [0], "f": [0], "g": [0], "o": [-3],
    }  # fmt: skip
    assert rnn.peephole_i_l0.eq(0.5).all()
    assert rnn.peephole_f_l0.eq(0).all()


def test_a_whole_matrix_is_filled_gate_by_gate():
    rnn = make(init={"name": "zeros", "blocks": {"weight_hh": "orthogonal"}})
    for u in recurrent_blocks(rnn):
        torch.testing.assert_close(u @ u.T, torch.eye(8), atol=1e-5, rtol=0)


def test_init_objects_and_keywords():
    init = Init.of({"name": "normal", "std": 0.2, "forget_bias": 1.0})
    assert (init.name, init.options, init.forget_bias) == ("normal", {"std": 0.2}, 1.0)
    assert Init.of(init) == init
    assert Init.of(init, forget_bias=2.0).forget_bias == 2.0
    assert Init.of({"forget_bias": 1.0}).name == "torch"
    assert make(init=init).init == init


@pytest.mark.parametrize(
    ("init", "error", "message"),
    [
        ("orthogonl", LookupError, "unknown init 'orthogonl': did you mean 'orthogonal'"),
        ({"name": "normal", "sdt": 1.0}, TypeError, "'normal' has no option 'sdt'.*'std'"),
        ({"name": "torch", "gain": 1.0}, TypeError, "'torch' has no option 'gain': it has none"),
        ({"blocks": {"weigth_hh": "zeros"}}, ValueError,
         "lstm has no parameter 'weigth_hh': did you mean 'weight_hh'"),
        ({"blocks": {"weight_hr": "zeros"}}, ValueError, "no parameter 'weight_hr'"),
        ({"blocks": {"weight_hh": {"z": "zeros"}}}, ValueError, "no gate 'z' in weight_hh: known"),
        ({"blocks": {"weight_hh": "zero"}}, LookupError, "did you mean 'zeros'"),
        ({"blocks": {"weight_hh": {"f": {"name": "normal", "sd": 1}}}}, TypeError, "'std'"),
        ({"blocks": {"weight_hh": 0.5}}, TypeError, "scheme must be a name or a mapping .*not 0.5"),
        ({"blocks": {"weight_hh": {"f": 0.5}}}, TypeError, "scheme must be a name or .*not 0.5"),
        ({"blocks": {"weight_hh": {"f": {"std": 1}}}}, TypeError, "{'std': 1} has none"),
        (0.5, TypeError, "scheme must be a name or a mapping .*not 0.5"),
    ],
)  # fmt: skip
def test_wrong_inits_are_refused(init, error, message):
    with pytest.raises(error, match=message):
        make(init=init)


def test_a_registered_scheme_is_found_and_its_options_are_read():
    @register_init("ramp_of_a_test", inputs="zeros", vectors="constant")
    def ramp(block, hidden_size, *, step=1.0):
        block.copy_(step * torch.arange(block.numel()).reshape(block.shape) / hidden_size)

    rnn = make(init={"name": "ramp_of_a_test", "step": 2.0})
    assert rnn.weight_ih_l0.eq(0).all()
    assert rnn.bias_ih_l0.eq(1).all()
    for u in recurrent_blocks(rnn):  # gate by gate
        assert u.equal(2 * torch.arange(64.0).reshape(8, 8) / 8)
    with pytest.raises(TypeError, match="did you mean 'step'"):
        make(init={"name": "ramp_of_a_test", "stp": 2.0})


# -- forget bias and chrono --------------------------------------------------------------------


class MGU(GatedCell):
    """A cell in which f is the share that is overwritten."""

    gates = {"f": Gate(), "n": Gate(late=True)}
    keep = {"f": -1}

    def update(self, a, s):
        f = sigmoid(a.f)
        return (1 - f) * s.h + f * tanh(a.n + self.product("n", f * s.h))


class NarrowMemory(GatedCell):
    gates = {"f": Gate(width=3), "i": Gate(width=3), "n": Gate()}
    states = {"h": State(), "m": State(3)}
    keep = {"f": +1}
    write = {"i": +1}

    def update(self, a, s):
        return tanh(a.n), sigmoid(a.f) * s.m + sigmoid(a.i)


def total(rnn, gate, layer=0):
    w = rnn.gate_weights(layer)[gate]
    return w.bias_ih + (w.bias_hh if w.bias_hh is not None else 0)


KEEPS = [("lstm", "f", 1), ("peephole_lstm", "f", 1), ("layernorm_lstm", "f", 1), (Heads, "f", 1),
         ("cifg_lstm", "i", -1), ("gru", "z", 1), ("gru_v1", "z", 1), (MGU, "f", -1),
         (NarrowMemory, "f", 1)]  # fmt: skip


@settings(max_examples=40)
@given(
    case=st.sampled_from(KEEPS),
    bias=st.sampled_from([1.0, 0.0, -2.5]),
    init=st.sampled_from(["torch", "glorot", "constant"]),
)
def test_forget_bias_is_the_total_in_the_direction_of_keeping(case, bias, init):
    cell, gate, sign = case
    rnn = make(cell, num_layers=2, init=init, forget_bias=bias)
    plain = make(cell, num_layers=2, init=init)
    for layer in (0, 1):
        assert total(rnn, gate, layer).eq(sign * bias).all()
        hidden_bias = rnn.gate_weights(layer)[gate].bias_hh
        assert hidden_bias is None or hidden_bias.eq(0).all()
        for other, w in rnn.gate_weights(layer).items():
            if other != gate:  # the other gates do not change
                same = plain.gate_weights(layer)[other]
                assert w.bias_ih.equal(same.bias_ih)
                assert w.weight_ih.equal(same.weight_ih)


@pytest.mark.parametrize(
    "cell", ["lstm", "peephole_lstm", "cifg_lstm", "layernorm_lstm", "gru", MGU]
)
def test_a_large_forget_bias_keeps_and_a_small_one_forgets(cell):
    for bias, want in ((30.0, 1.0), (-30.0, 0.0)):
        rnn = make(cell, init="zeros", forget_bias=bias)
        before = tensors(rnn.initial_state(1))
        before = (*before[:-1], torch.full_like(before[-1], 1e6))
        memory = tensors(rnn(torch.zeros(1, 1, 6), in_form(before))[1])[-1]
        assert (memory / 1e6).allclose(torch.tensor(want), atol=1e-3)


@settings(max_examples=40)
@given(
    cell=st.sampled_from(["lstm", "peephole_lstm", "cifg_lstm", "gru", MGU, NarrowMemory]),
    t_max=st.sampled_from([3, 10.5, 784]),
)
def test_chrono(cell, t_max):
    rnn = make(cell, 3, 64, chrono=t_max)
    built = rnn.cell()
    ((gate, sign),) = built.keep.items()
    kept = sign * total(rnn, gate)
    assert 0 <= kept.min() <= kept.max() <= math.log(t_max - 1) + 1e-6
    assert kept.unique().numel() > 2
    if t_max == 784 and len(kept) == 64:
        assert kept.exp().max() > 600  # the time is uniform, not its logarithm
        assert abs(kept.exp().mean() - 392) < 100
    for writes, direction in built.write.items():
        assert total(rnn, writes).equal(-direction * kept)
        assert rnn.gate_weights()[writes].bias_hh.eq(0).all()
    assert rnn.gate_weights()[gate].bias_hh.eq(0).all()


class NoBias(GatedCell):
    gates = ("f",)
    keep = {"f": +1}
    biases = ()

    def update(self, a, s):
        return sigmoid(a.f) * s.h


@pytest.mark.parametrize(
    ("cell", "options", "error", "message"),
    [
        ("elman", {"forget_bias": 1.0}, ValueError, "forget_bias: no gate of elman"),
        ("elman", {"chrono": 10}, ValueError, "chrono: no gate of elman"),
        ("lstm", {"forget_bias": 1.0, "bias": False}, ValueError, "gate 'f' .*bias=False"),
        ("lstm", {"chrono": 10, "bias": False}, ValueError, "chrono: gate 'f' .*bias=False"),
        (NoBias, {"forget_bias": 1.0}, ValueError, "forget_bias: gate 'f' of NoBias has no bias$"),
        ("lstm", {"forget_bias": 1.0, "chrono": 10}, ValueError, "pass one of them"),
        ("lstm", {"init": {"chrono": 10}, "forget_bias": 0.0}, ValueError, "pass one of them"),
        ("lstm", {"chrono": 2}, ValueError, "greater than 2, not 2"),
        ("lstm", {"forget_bias": 1.0, "init": {"blocks": {"bias_ih": "zeros"}}}, ValueError,
         "forget_bias and blocks both set bias_ih"),
        ("lstm", {"forget_bias": "1"}, TypeError, "forget_bias must be a number, not '1'"),
        ("lstm", {"chrono": "10"}, TypeError, "chrono must be a number, not '10'"),
    ],
)  # fmt: skip
def test_a_forget_bias_without_a_place_is_refused(cell, options, error, message):
    with pytest.raises(error, match=message):
        make(cell, **options)


# -- the initialisation of a cell's paper ------------------------------------------------------


class Prescribed(GatedCell):
    """An Elman cell with an initialisation of its paper."""

    gates = ("n",)
    keep = {"n": +1}
    paper_init = {"name": "normal", "std": 0.01, "forget_bias": 2.0,
                  "blocks": {"weight_hh": "identity"}}  # fmt: skip
    extra = {
        "radius": Extra("hidden_size", init=lambda cell: torch.linspace(0, 1, cell.hidden_size)),
        "gain": Extra("hidden_size", init=lambda cell: 1 - cell.radius**2),
    }

    def update(self, a, s):
        return self.gain * tanh(a.n) + self.radius * s.h


def test_init_paper_is_what_the_cell_declares():
    rnn = make(Prescribed, num_layers=2, init="paper")
    for layer in (0, 1):
        w = rnn.gate_weights(layer)["n"]
        assert w.weight_hh.equal(torch.eye(8))
        assert 0 < w.weight_ih.abs().max() < 0.06
        assert (w.bias_ih + w.bias_hh).eq(2.0).all()


def test_what_is_said_beside_init_paper_comes_first():
    rnn = make(Prescribed, init={"name": "paper", "blocks": {"weight_ih": "zeros"}}, chrono=8.0)
    w = rnn.gate_weights()["n"]
    assert w.weight_hh.equal(torch.eye(8))
    assert w.weight_ih.eq(0).all()
    assert (w.bias_ih + w.bias_hh).unique().numel() == 8
    assert (w.bias_ih + w.bias_hh).max() <= math.log(7)


def test_init_paper_is_refused_where_the_cell_declares_none():
    with pytest.raises(ValueError, match="no initialisation is declared for elman"):
        make("elman", init="paper")
    with pytest.raises(ValueError, match="the init of a whole cell, not of a block"):
        make(Prescribed, init={"blocks": {"weight_ih": "paper"}})


def test_init_paper_leaves_out_the_biases_that_the_cell_was_built_without():
    rnn = make("fastrnn", init="paper", bias=False)
    assert rnn.bias_ih_l0 is None
    assert make("fastrnn", init="paper").bias_ih_l0.eq(1).all()


@pytest.mark.parametrize("init", ["torch", "paper", "zeros"])
def test_an_extra_parameter_starts_as_a_function_of_the_cell(init):
    rnn = make(Prescribed, num_layers=2, bidirectional=True, init=init)
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        radius = torch.linspace(0, 1, 8)
        assert rnn.get_parameter("radius" + suffix).equal(radius)
        assert rnn.get_parameter("gain" + suffix).equal(1 - radius**2)


def test_a_uniform_gate_is_spread_over_its_range():
    rnn = make("lstm", 2, 500, init={"blocks": {"bias_ih": {"f": "uniform_gate"}}})
    f = sigmoid(rnn.gate_weights()["f"].bias_ih.detach())
    assert f.min() >= 1 / 500 - 1e-5
    assert f.max() <= 1 - 1 / 500 + 1e-5
    counts = torch.histc(f, 5, 0, 1)
    assert counts.min() > 60  # the mean is 100
    one = make("lstm", 2, 1, init={"blocks": {"bias_ih": {"f": "uniform_gate"}}})
    assert one.gate_weights()["f"].bias_ih.item() == 0  # σ(0) = 1/2


def test_uniform_takes_its_range():
    u = recurrent_blocks(
        make(init={"blocks": {"weight_hh": {"name": "uniform", "low": 0.2, "high": 0.3}}})
    )
    assert all(block.min() >= 0.2 and block.max() <= 0.3 for block in u)
