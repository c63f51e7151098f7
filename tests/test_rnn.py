"""`RNN`: equality with torch.nn, and properties that hold for every cell."""

from __future__ import annotations

import copy
import pickle

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
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import dropout
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from cellzoo import RNN, GatedCell, build_cell, list_cells
from cellzoo.engines import EngineError

CELLS = ["lstm", "peephole_lstm", "cifg_lstm", "layernorm_lstm", "gru", "gru_v1", "elman"]
TORCH = {
    "lstm": (nn.LSTM, "lstm", {}),
    "projected lstm": (nn.LSTM, "lstm", {"proj_size": 2}),
    "gru": (nn.GRU, "gru", {}),
    "elman tanh": (nn.RNN, "elman", {"nonlinearity": "tanh"}),
    "elman relu": (nn.RNN, "elman", {"nonlinearity": "relu"}),
}


def make(cell="lstm", input_size=3, hidden_size=4, **options) -> RNN:
    rnn = RNN(cell, input_size, hidden_size, dtype=F64, **options)
    shake(rnn)
    return rnn


# -- equality with torch.nn --------------------------------------------------------------------


def pair(kind: str, engine: str, sizes: tuple[int, int], **shared) -> tuple[nn.Module, RNN]:
    """Return torch.nn's module and ours, after a round trip of the state dict."""
    module, cell, options = TORCH[kind]
    theirs = module(*sizes, **shared, **options, dtype=F64)
    ours = RNN(cell, *sizes, **shared, **options, engine=engine, dtype=F64)
    shake(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs, ours


def assert_equal(theirs, ours, x, state, pack=lambda x: x, unpack=lambda y: y) -> None:
    def run(module):
        inputs = with_gradient(x=x, **{f"s{i}": s for i, s in enumerate(state or ())})
        inputs |= dict(module.named_parameters())
        output, final = module(pack(x), in_form(state) if state else None)
        return everything(unpack(output), final, inputs)

    assert_same(run(ours), run(theirs))


@settings(max_examples=300)
@given(
    kind=st.sampled_from(sorted(TORCH)),
    engine=st.sampled_from(["loop", "native"]),
    sizes=st.tuples(st.integers(1, 4), st.integers(3, 5)),
    num_layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    form=st.sampled_from(["time first", "batch first", "unbatched"]),
    steps=st.integers(1, 5),
    batch=st.integers(0, 3),
    given_state=st.booleans(),
)
def test_equals_torch(
    kind, engine, sizes, num_layers, bidirectional, bias, form, steps, batch, given_state
):
    theirs, ours = pair(
        kind, engine, sizes, num_layers=num_layers, bidirectional=bidirectional, bias=bias,
        batch_first=form == "batch first",
    )  # fmt: skip
    if form == "unbatched":
        x, state = normal(steps, sizes[0]), random_state(ours, 1)
        state = tuple(s.detach().squeeze(1).requires_grad_() for s in state)
    else:
        x = normal(*((batch, steps) if ours.batch_first else (steps, batch)), sizes[0])
        state = random_state(ours, batch)
    try:
        theirs(x)
    except RuntimeError:  # not every kernel of torch.nn accepts an empty batch; ours need not then
        assert batch == 0
        return
    assert_equal(theirs, ours, x, state if given_state else None)


@settings(max_examples=200)
@given(
    kind=st.sampled_from(sorted(TORCH)),
    engine=st.sampled_from(["loop", "native"]),
    num_layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    enforce_sorted=st.booleans(),
    given_state=st.booleans(),
)
def test_packed_equals_torch(
    kind, engine, num_layers, bidirectional, bias, lengths, enforce_sorted, given_state
):
    theirs, ours = pair(
        kind, engine, (3, 4), num_layers=num_layers, bidirectional=bidirectional, bias=bias
    )
    if enforce_sorted:
        lengths = sorted(lengths, reverse=True)
    x, state = normal(max(lengths), len(lengths), 3), random_state(ours, len(lengths))

    def pack(x):
        return pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=enforce_sorted)

    def unpack(y):
        return pad_packed_sequence(y)[0]

    assert_equal(theirs, ours, x, state if given_state else None, pack, unpack)


@pytest.mark.parametrize("kind", TORCH)
@pytest.mark.parametrize("engine", ["loop", "native"])
def test_an_empty_batch_is_an_empty_result(kind, engine):
    theirs, ours = pair(kind, engine, (3, 4), num_layers=2, bidirectional=True)
    output, state = ours(torch.zeros(5, 0, 3, dtype=F64))
    want, want_state = theirs(torch.zeros(5, 0, 3, dtype=F64))
    assert output.shape == want.shape
    assert [s.shape for s in tensors(state)] == [s.shape for s in tensors(want_state)]


# -- invalid input -----------------------------------------------------------------------------


def packed(rows: int, sizes: list[int], width: int = 3) -> PackedSequence:
    return PackedSequence(torch.zeros(rows, width, dtype=F64), torch.tensor(sizes))


ZEROS = torch.zeros(5, 2, 3, dtype=F64)
STATE = torch.zeros(1, 2, 4, dtype=F64)


@pytest.mark.parametrize("engine", ["loop", "native"])
@pytest.mark.parametrize(
    ("x", "state", "error", "message"),
    [
        (ZEROS[:0], None, ValueError, "at least one time step"),
        (ZEROS[..., :2], None, ValueError, "last dimension must be 3, not 2"),
        (ZEROS[None], None, ValueError, "3 dimensions .* not 4"),
        (ZEROS[0, 0], None, ValueError, "3 dimensions .* not 1"),
        (ZEROS.float(), None, ValueError, "float64 .*not torch.float32"),
        (ZEROS.long(), None, ValueError, "float64 .*not torch.int64"),
        (ZEROS.numpy(), None, TypeError, "not ndarray"),
        (None, None, TypeError, "not NoneType"),
        (ZEROS, STATE, ValueError, r"states \(h, c\), got 1"),
        (ZEROS, (STATE,) * 3, ValueError, r"states \(h, c\), got 3"),
        (ZEROS, (STATE, STATE[..., :3]), ValueError, r"state c .*\(1, 2, 4\).* not \(1, 2, 3\)"),
        (ZEROS, (STATE[:, :1], STATE), ValueError, r"state h .*\(1, 2, 4\).* not \(1, 1, 4\)"),
        (ZEROS, (STATE[0], STATE[0]), ValueError, r"state h .*\(1, 2, 4\)"),
        (ZEROS, (STATE, STATE.float()), ValueError, "state c .*float64.*float32"),
        (ZEROS, (STATE, 0.0), TypeError, "state c .*not float"),
        (ZEROS, 0.0, TypeError, r"states \(h, c\)"),
        (ZEROS[:, 0], (STATE, STATE), ValueError, r"state h .*\(1, 4\).* not \(1, 2, 4\)"),
        (packed(9, [5, 3]), None, ValueError, "sum to the 9 rows"),
        (packed(8, [3, 5]), None, ValueError, "must not grow"),
        (packed(8, [5, 3], width=2), None, ValueError, "last dimension must be 3, not 2"),
        (packed(8, [5, 3]), (STATE, STATE), ValueError, r"state h .*\(1, 5, 4\)"),
        (packed(0, []), None, ValueError, "at least one time step"),
    ],
)
def test_wrong_input_is_refused(engine, x, state, error, message):
    rnn = make("lstm", engine=engine)
    with pytest.raises(error, match=message):
        rnn(x, state)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden_size": 0}, ValueError, "hidden_size must be greater than zero, not 0"),
        ({"hidden_size": -3}, ValueError, "hidden_size must be greater than zero, not -3"),
        ({"hidden_size": "many"}, TypeError, "hidden_size must be a whole number, not 'many'"),
        ({"hidden_size": True}, TypeError, "hidden_size must be a whole number, not True"),
        ({"hidden_size": 2.0}, TypeError, "hidden_size must be a whole number"),
        ({"input_size": 0}, ValueError, "input_size must be greater than zero"),
        ({"num_layers": 0}, ValueError, "num_layers must be greater than zero"),
        ({"dropout": 1.5}, ValueError, "between 0 and 1"),
        ({"cell": "lsmt"}, LookupError, "did you mean 'lstm'"),
        ({"cell": nn.LSTM}, TypeError, "subclass of GatedCell"),
        ({"proj": 2}, TypeError, "did you mean 'proj_size'"),
        ({"proj_size": -1}, ValueError, "proj_size"),
        ({"proj_size": 4}, ValueError, "proj_size"),
        ({"cell": "elman", "nonlinearity": "tan"}, ValueError, "one of 'tanh', 'relu'"),
        ({"engine": "nativ"}, ValueError, "did you mean 'native'"),
        ({"cell": "peephole_lstm", "engine": "native"}, EngineError, "no kernel"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        RNN(**({"cell": "lstm", "input_size": 3, "hidden_size": 4} | arguments))


# -- properties of every cell ------------------------------------------------------------------


@settings(max_examples=80)
@given(
    cell=st.sampled_from(CELLS),
    num_layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    enforce_sorted=st.booleans(),
)
def test_packed_is_each_sequence_alone(cell, num_layers, bidirectional, lengths, enforce_sorted):
    lengths = sorted(lengths, reverse=True) if enforce_sorted else lengths
    rnn = make(cell, num_layers=num_layers, bidirectional=bidirectional, engine="loop")
    assert_packed_is_alone(rnn, lengths, enforce_sorted)


SEEN: list[int] = []


class Counting(GatedCell):
    gates = ("n",)

    def update(self, a, s):
        SEEN.append(len(s.h))
        return torch.tanh(a.n)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_ended_sequences_are_not_computed(bidirectional):
    rnn = make(Counting, bidirectional=bidirectional)
    x = pack_padded_sequence(normal(4, 3, 3), torch.tensor([4, 3, 1]))
    SEEN.clear()
    rnn(x)
    assert [3, 2, 2, 1] + bidirectional * [1, 2, 2, 3] == SEEN


@pytest.mark.parametrize("cell", CELLS)
def test_initial_state_is_what_none_means(cell):
    rnn = make(cell, num_layers=2, bidirectional=True)
    x = normal(3, 2, 3)
    initial = rnn.initial_state(2)
    assert all(s.shape == (4, 2, 4) and s.dtype == F64 for s in tensors(initial))
    assert isinstance(initial, torch.Tensor) == (len(rnn.cell().layout.states) == 1)
    assert_same(everything(*rnn(x), {"x": x}), everything(*rnn(x, initial), {"x": x}), atol=0)


H = torch.zeros(2, 4, dtype=F64)


@pytest.mark.parametrize(
    ("x", "state", "error", "message"),
    [
        (ZEROS, None, ValueError, r"x_t must be \(batch, 3\), not \(5, 2, 3\)"),
        (ZEROS[0, :, :2], None, ValueError, r"x_t must be \(batch, 3\), not \(2, 2\)"),
        (ZEROS[0].float(), None, ValueError, "float64.*float32"),
        ([0.0], None, TypeError, "list"),
        (ZEROS[0], H, ValueError, r"states \(h, c\), got 1"),
        (ZEROS[0], (H, H[:1]), ValueError, r"state c .*\(2, 4\).* not \(1, 4\)"),
        (ZEROS[0], (H, H.float()), ValueError, "state c .*float64"),
    ],
)
def test_wrong_input_of_a_step_is_refused(x, state, error, message):
    with pytest.raises(error, match=message):
        build_cell("lstm", 3, 4, dtype=F64).step(x, state)


# -- dropout between layers --------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["loop", "native"])
def test_dropout_acts_between_layers_only(engine):
    rnn = make("gru", num_layers=3, dropout=0.4, engine=engine)
    layers = [make("gru", width) for width in (3, 4, 4)]
    for number, layer in enumerate(layers):
        for name, parameter in layer.named_parameters():
            parameter.data = rnn.get_parameter(name.replace("l0", f"l{number}")).data
    x = normal(5, 2, 3)
    torch.manual_seed(3)
    output, _ = rnn(x)
    torch.manual_seed(3)
    y = layers[0](x)[0]
    for layer in layers[1:]:
        y = layer(dropout(y, 0.4))[0]
    torch.testing.assert_close(output, y)
    rnn.eval()
    y = layers[2](layers[1](layers[0](x)[0])[0])[0]
    torch.testing.assert_close(rnn(x)[0], y)
    torch.testing.assert_close(rnn(x)[0], y)


def test_dropout_of_one_layer_warns_and_does_nothing():
    with pytest.warns(UserWarning, match="between layers"):
        rnn = make("gru", dropout=0.5)
    x = normal(5, 2, 3)
    torch.testing.assert_close(rnn(x)[0], rnn(x)[0], rtol=0, atol=0)


def test_dropout_of_one_lets_nothing_through():
    rnn = make("gru", num_layers=2, dropout=1.0)
    torch.testing.assert_close(rnn(normal(5, 2, 3))[0], rnn(normal(5, 2, 3, seed=1))[0])


# -- behaviour as an nn.Module -----------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_copies(cell):
    rnn = make(cell, num_layers=2, bidirectional=True)
    x = normal(3, 2, 3)
    want = rnn(x)[0]
    copies = [copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))]
    for load in ({}, {"assign": True}):
        copies.append(RNN(cell, 3, 4, 2, bidirectional=True, dtype=F64))
        state = {name: tensor.clone() for name, tensor in rnn.state_dict().items()}
        copies[-1].load_state_dict(state, **load)
    for other in copies:
        torch.testing.assert_close(other(x)[0], want, rtol=0, atol=0)
        with torch.no_grad():
            other.weight_hh_l1 *= -1
        assert not torch.allclose(other(x)[0], want)
    torch.testing.assert_close(rnn(x)[0], want, rtol=0, atol=0)


def test_moves_to_another_dtype():
    rnn = RNN("peephole_lstm", 3, 4)
    assert rnn(torch.zeros(2, 1, 3))[0].dtype == torch.float32
    output, (h, c) = rnn.to(F64)(torch.zeros(2, 1, 3, dtype=F64))
    assert output.dtype == h.dtype == c.dtype == F64


@pytest.mark.parametrize("engine", ["loop", "native"])
def test_functional_call_uses_what_it_is_given(engine):
    rnn, other = make(engine=engine), make(engine=engine)
    shake(other, seed=9)
    x = normal(3, 2, 3)
    got = functional_call(rnn, dict(other.named_parameters()), (x,))
    torch.testing.assert_close(got[0], other(x)[0], rtol=0, atol=0)
    gradient = torch.autograd.grad(got[0].sum(), list(other.parameters()))
    assert all(g.abs().sum() > 0 for g in gradient)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("engine", ["loop", "native"])
def test_a_parametrized_weight_is_used(engine):
    rnn, doubled = make(engine=engine), make(engine=engine)
    with torch.no_grad():
        doubled.weight_hh_l0 *= 2
    parametrize.register_parametrization(rnn, "weight_hh_l0", Doubled())
    x = normal(3, 2, 3)
    output = rnn(x)[0]
    torch.testing.assert_close(output, doubled(x)[0])
    output.sum().backward()
    assert rnn.parametrizations.weight_hh_l0.original.grad.abs().sum() > 0


@pytest.mark.parametrize("cell", CELLS)
def test_vmap_over_an_ensemble(cell):
    models = [make(cell) for _ in range(3)]
    for seed, model in enumerate(models):
        shake(model, seed=10 * seed)
    parameters, buffers = stack_module_state(models)
    x = normal(3, 2, 3)

    def run(parameters, buffers):
        assert models[0].explain().startswith("loop")
        return functional_call(models[0], (parameters, buffers), (x,))[0]

    got = vmap(run)(parameters, buffers)
    torch.testing.assert_close(got, torch.stack([model(x)[0] for model in models]))


@pytest.mark.parametrize("cell", CELLS)
def test_autocast_keeps_states_in_float32(cell):
    rnn = RNN(cell, 3, 4, num_layers=2)
    x = normal(3, 2, 3).float()
    with torch.autocast("cpu", torch.bfloat16):
        output, state = rnn(x)
        halved, _ = rnn(x.bfloat16())
        assert rnn.explain().startswith("loop")
        if cell in ("lstm", "gru", "elman"):
            assert "native declined: under autocast" in rnn.explain()
    assert {output.dtype, *(s.dtype for s in tensors(state))} == {torch.float32}
    torch.testing.assert_close(output, rnn(x)[0], atol=0.05, rtol=0)
    torch.testing.assert_close(halved, rnn(x)[0], atol=0.05, rtol=0)
    output.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in rnn.parameters())


# -- engines -----------------------------------------------------------------------------------


def test_explain():
    assert RNN("lstm", 3, 4).explain() == "native (chosen)"
    assert RNN("lstm", 3, 4, engine="loop").explain() == "loop"
    assert RNN("cifg_lstm", 3, 4).explain() == (
        "loop (chosen); native declined: torch.nn has no kernel for cifg_lstm"
    )
    half = RNN("lstm", 3, 4, dtype=torch.bfloat16)
    assert "bfloat16" in half.explain()
    assert half(torch.zeros(2, 1, 3, dtype=torch.bfloat16))[0].dtype == torch.bfloat16


def test_native_asked_for_refuses_what_it_cannot_do():
    rnn = RNN("lstm", 3, 4, engine="native")
    with pytest.raises(EngineError, match="autocast"), torch.autocast("cpu", torch.bfloat16):
        rnn(torch.zeros(2, 1, 3))


def test_a_subclass_does_not_inherit_the_kernel():
    class Other(type(RNN("lstm", 3, 4).cell())):
        def update(self, a, s):
            h, c = super().update(a, s)
            return -h, c

    rnn = make(Other)
    assert rnn.explain().startswith("loop")
    plain = make("lstm")
    x = normal(1, 2, 3)
    torch.testing.assert_close(rnn(x)[0], -plain(x)[0])


def test_the_cells_are_those_tested_here():
    assert set(CELLS) <= set(list_cells())
