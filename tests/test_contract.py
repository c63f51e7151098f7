"""What a cell may declare, by cells that only exist in tests, each against plain torch."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch
from cases import (
    CASES,
    STACKS,
    ComplexState,
    Decaying,
    Dropping,
    InitialValueOfOne,
    OneLateProduct,
    StepIndex,
    build,
)
from commands import LEAKY
from helpers import (
    F64,
    assert_packed_is_alone,
    assert_same,
    everything,
    in_form,
    normal,
    random_state,
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

# -- every case --------------------------------------------------------------------------------


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
