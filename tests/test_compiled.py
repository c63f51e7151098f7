"""The compiled engine against the loop: as plain functions for every cell, compiled for some."""

import os
import subprocess
import sys

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
    with_gradient,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contract import CASES, STACKS, build

from cellzoo import RNN, list_cells
from cellzoo.engines import CompileError, EngineError
from cellzoo.engines.compiled import programs as made

# The cells whose states are whole or complex numbers, which this engine declines.
DECLINED = {"StepIndex", "ComplexState"}
OURS = [pytest.param(name, None, {}, id=name) for name in list_cells()]
OPTIONS = [
    pytest.param("lstm", None, {"proj_size": 2}, id="projected"),
    pytest.param("elman", None, {"nonlinearity": "relu"}, id="relu"),
]
GROWS = "SeveralLateProducts"  # too fast for an absolute tolerance
CELLS = [*OURS, *OPTIONS, *(c for c in CASES if c.id not in DECLINED)]


@pytest.fixture
def _as_plain_functions(monkeypatch):
    monkeypatch.setattr(made, "COMPILE", False)
    monkeypatch.setattr(made, "_programs", {})


def both(cell, options, stack, steps=9, batch=2):
    """Everything that a run gives, gradients included, by the loop and compiled."""
    results = []
    for engine in ("loop", "compiled"):
        rnn = build(cell, engine=engine, **options, **stack)
        x, state = normal(steps, batch, rnn.input_size), random_state(rnn, batch)
        inputs = with_gradient(x=x, **{f"s{i}": s for i, s in enumerate(state)})
        inputs |= dict(rnn.named_parameters())
        results.append(everything(*rnn(x, in_form(state)), inputs))
    return results


def assert_equal(got, want):
    """To rounding: a test cell may grow without bound, so relative to its size."""
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("_as_plain_functions")
@pytest.mark.parametrize("stack", STACKS, ids=["one layer", "two layers, both directions"])
@pytest.mark.parametrize(("cell", "step", "options"), CELLS)
def test_equals_the_loop(cell, step, options, stack):
    loop, compiled = both(cell, options, stack)
    assert_equal(compiled, loop)


@pytest.mark.usefixtures("_as_plain_functions")
@pytest.mark.parametrize(("cell", "step", "options"), [c for c in CELLS if c.id != GROWS])
def test_packed(cell, step, options):
    rnn = build(cell, bidirectional=True, engine="compiled", **options)
    assert_packed_is_alone(rnn, [1, 5, 2, 5], enforce_sorted=False)


@pytest.mark.usefixtures("_as_plain_functions")
@given(steps=st.integers(1, 12), batch=st.integers(0, 3), bias=st.booleans())
@settings(max_examples=20)
def test_any_length_and_batch(steps, batch, bias):
    loop, compiled = both("peephole_lstm", {"bias": bias}, {}, steps, batch)
    assert_equal(compiled, loop)


@pytest.mark.usefixtures("_as_plain_functions")
@pytest.mark.parametrize("cell", ["peephole_lstm", "gru_v1", "layernorm_lstm"])
def test_second_derivatives(cell):
    def penalty(engine):
        rnn = build(cell, engine=engine)
        x = normal(5, 2, 3)
        (slope,) = torch.autograd.grad(rnn(x)[0].sum(), x, create_graph=True)
        inputs = {"x": x, **dict(rnn.named_parameters())}
        found = torch.autograd.grad(slope.square().sum(), inputs.values(), materialize_grads=True)
        return dict(zip(inputs, found, strict=True))

    assert_same(penalty("compiled"), penalty("loop"))


@pytest.mark.usefixtures("_as_plain_functions")
def test_only_what_is_wanted_and_no_gradient_at_all():
    rnn = build("lstm", engine="compiled").requires_grad_(False)
    x = normal(5, 2, 3)
    rnn(x)[0].sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(rnn(x)[0], build("lstm", engine="loop")(x)[0])


def test_declines_with_a_reason():
    rnn = RNN("lstm", 3, 4, engine="compiled")
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(EngineError, match="autocast"):
        rnn(torch.zeros(2, 1, 3))
    with pytest.raises(EngineError, match="bfloat16"):
        rnn.bfloat16()(torch.zeros(2, 1, 3, dtype=torch.bfloat16))
    for case in CASES:
        if case.id in DECLINED:
            cell, _, options = case.values
            with pytest.raises(EngineError, match=r"state . is not"):
                build(cell, engine="compiled", **options)(normal(2, 1, 3))
    assert RNN("peephole_lstm", 3, 4).explain().startswith("loop")


# -- compiled for real: a sample that covers each feature of the contract ----------------------


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(made, "_programs", {})


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("cell", ["peephole_lstm", "gru_v1", "layernorm_lstm"])
def test_compiled_for_real_at_several_sizes(cell):
    programs = None
    for sizes in ((9, 2, 3, 5), (8, 7, 5, 6), (4, 1, 5, 32)):
        steps, batch, input_size, hidden_size = sizes
        results = []
        for engine in ("loop", "compiled"):
            rnn = RNN(cell, input_size, hidden_size, engine=engine, dtype=F64)
            shake(rnn)
            x, state = normal(steps, batch, input_size), random_state(rnn, batch)
            inputs = with_gradient(x=x, **{f"s{i}": s for i, s in enumerate(state)})
            inputs |= dict(rnn.named_parameters())
            results.append(everything(*rnn(x, in_form(state)), inputs))
        assert_same(results[1], results[0], atol=1e-9)
        (programs,) = made._programs.values()
    # One pair of programs served all sizes; the first length asked for a shorter chunk besides.
    assert [len(each) for each in programs._programs.values()] == [2, 2]


RUN = """
import torch
from cellzoo import RNN
from cellzoo.engines.compiled import artifacts
from torch._inductor import standalone_compile
import torch._inductor as inductor
count = []
def counting(*arguments, **options):
    count.append(1)
    return standalone_compile(*arguments, **options)
inductor.standalone_compile = counting
torch.manual_seed(0)
rnn = RNN("cifg_lstm", 3, 4, engine="compiled")
x = torch.ones(4, 2, 3, requires_grad=True)
rnn(x)[0].sum().backward()
print(len(count), x.grad.sum().item())
"""


@pytest.mark.slow
def test_compiled_once_ever_and_a_torn_file_is_made_anew(tmp_path):
    def run():
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        said = subprocess.run(
            [sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        return int(said[0]), float(said[1])

    first = run()
    assert first[0] == 2  # forward and backward
    assert run() == (0, first[1])
    files = list((tmp_path / "cellzoo" / "compiled").iterdir())
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:1000])
    assert run() == (1, first[1])


def test_a_cache_that_others_may_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = artifacts.cache_folder()
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(CompileError, match="yours alone"):
        artifacts.cache_folder()


@pytest.mark.usefixtures("_own_cache")
def test_no_compiler_is_said(monkeypatch):
    def no_compiler(*arguments):
        raise FileNotFoundError("no C++ compiler")

    monkeypatch.setattr(made, "_compile", no_compiler)
    with pytest.raises(CompileError, match="FileNotFoundError: no C"):
        RNN("lstm", 3, 4, engine="compiled")(torch.zeros(2, 1, 3))
