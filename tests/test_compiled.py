"""The compiled engine against the loop: as plain functions for every cell, compiled for some."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.utils.flop_counter
from cases import CASES, SIZES, STACKS, build
from helpers import (
    F64,
    assert_equal,
    assert_packed_is_alone,
    assert_same,
    everything,
    in_form,
    normal,
    random_state,
    shake,
    with_gradient,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from references import REFERENCES
from torch.nn.functional import linear
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import cellzoo
from cellzoo import RNN, GatedCell, list_cells
from cellzoo.cells.declare import Extra, Gate
from cellzoo.cells.prepared import PreparedCell
from cellzoo.engines import CompileError, EngineError, compiled
from cellzoo.engines.compiled import programs
from cellzoo.engines.compiled.cpu import cache, compiler, inductor, library
from cellzoo.engines.compiled.cpu import programs as cpu_programs
from cellzoo.engines.compiled.steps import Steps
from cellzoo.engines.packing import Layer
from cellzoo.system.threads import on_threads

PACKAGE = Path(cellzoo.__file__).parent
OURS = [
    pytest.param(name, None, options, id="-".join([name, *map(str, options.values())]))
    for name in list_cells()
    for options in (REFERENCES[name].variants if name in REFERENCES else [{}])
]
OPTIONS = [
    pytest.param("lstm", None, {"proj_size": 2}, id="projected"),
    pytest.param("elman", None, {"nonlinearity": "relu"}, id="relu"),
]
GROWS = "SeveralLateProducts"  # too fast for an absolute tolerance
CELLS = [*OURS, *OPTIONS, *CASES]


def made(cell, engine, **options):
    """A module of sizes that the cell takes, with random values."""
    sizes = max(REFERENCES[cell].sizes, key=min) if cell in REFERENCES else SIZES
    torch.manual_seed(0)  # of buffers that are drawn
    rnn = RNN(cell, *sizes, engine=engine, dtype=F64, **options)
    shake(rnn)
    return rnn


def declined(cell, options):
    """Why this engine runs no such cell; None if it does."""
    rnn = made(cell, "loop", **options)
    reason = rnn.cell().engines_reason if rnn.cell().engines else None
    x = normal(2, 1, rnn.input_size)
    return reason or compiled.declines(Layer([rnn.cell()], x))


def skip_if_declined(cell, options):
    """Such a cell must be refused with the reason, by name; nothing more can be tested."""
    if reason := declined(cell, options):
        with pytest.raises(EngineError, match=re.escape(reason)):
            made(cell, "compiled", **options)(
                normal(2, 1, made(cell, "loop", **options).input_size)
            )
        pytest.skip(reason)


@pytest.fixture
def _as_plain_functions(monkeypatch):
    monkeypatch.setattr(programs, "COMPILE", False)
    monkeypatch.setattr(programs, "_programs", {})


def both(cell, options, stack, steps=9, batch=2):
    """Everything that a run gives, gradients included, by the loop and compiled."""
    results = []
    for engine in ("loop", "compiled"):
        rnn = made(cell, engine, **options, **stack)
        x, state = normal(steps, batch, rnn.input_size), random_state(rnn, batch)
        inputs = with_gradient(x=x, **{f"s{i}": s for i, s in enumerate(state)})
        inputs |= dict(rnn.named_parameters())
        torch.manual_seed(0)  # of masks that a projection draws
        results.append(everything(*rnn(x, in_form(state)), inputs))
    return results


@pytest.mark.usefixtures("_as_plain_functions")
@pytest.mark.parametrize("stack", STACKS, ids=["one layer", "two layers, both directions"])
@pytest.mark.parametrize(("cell", "step", "options"), CELLS)
def test_equals_the_loop(cell, step, options, stack):
    skip_if_declined(cell, options)
    loop, found = both(cell, options, stack)
    assert_equal(found, loop)


@pytest.mark.usefixtures("_as_plain_functions")
@pytest.mark.parametrize(("cell", "step", "options"), [c for c in CELLS if c.id != GROWS])
def test_packed(cell, step, options):
    skip_if_declined(cell, options)
    rnn = made(cell, "compiled", bidirectional=True, **options).eval()  # no masks, no statistics
    assert_packed_is_alone(rnn, [1, 5, 2, 5], enforce_sorted=False)


@pytest.mark.usefixtures("_as_plain_functions")
def test_packed_is_one_call_for_a_direction(monkeypatch):
    calls, backward = [], programs.Programs.backward

    def counting(self, lengths, *arguments, **keywords):
        calls.append(lengths.batch_sizes)
        return backward(self, lengths, *arguments, **keywords)

    monkeypatch.setattr(programs.Programs, "backward", counting)
    rnn = build("lstm", engine="compiled", bidirectional=True)
    rnn(pack_padded_sequence(normal(5, 3, 3), [5, 3, 1]))[0].data.sum().backward()
    assert calls == [[3, 2, 2, 1, 1]] * 2


@st.composite
def runs(draw):
    """A cell, how it is stacked, and an input for it, packed or not."""
    cell, _, options = draw(st.sampled_from([c for c in CELLS if c.id != GROWS])).values
    stack = {
        "num_layers": draw(st.integers(1, 2)),
        "bidirectional": draw(st.booleans()),
        "bias": draw(st.booleans()),
    }
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    packed, started = draw(st.booleans()), draw(st.booleans())
    return cell, options, stack, lengths, packed, started


@pytest.mark.usefixtures("_as_plain_functions")
@given(run=runs(), dtype=st.sampled_from([torch.float32, F64]), seed=st.integers(0, 1000))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_engines_agree(run, dtype, seed):
    """Outputs, states and every gradient of each engine, to the rounding of the loop in float64."""
    cell, options, stack, lengths, packed, started = run

    def by(engine, dtype):
        rnn = made(cell, engine, **options, **stack).eval()
        state = random_state(rnn, len(lengths), seed)
        kinds = {F64: dtype, F64.to_complex(): dtype.to_complex()}
        rnn, state = rnn.to(dtype), tuple(s.to(kinds.get(s.dtype, s.dtype)) for s in state)
        x = normal(max(lengths), len(lengths), rnn.input_size, seed=seed).to(dtype)
        given = in_form(state) if started else None
        inputs = {"x": x, **dict(rnn.named_parameters())}
        if started:
            inputs |= with_gradient(**{f"s{i}": s for i, s in enumerate(state)})
        if not packed:
            return everything(*rnn(x, given), inputs)
        sequence = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        output, final = rnn(sequence, given)
        return everything(pad_packed_sequence(output)[0], final, inputs)

    exact, loop = by("loop", F64), by("loop", dtype)
    for engine in ("native", "scan", "compiled"):
        try:
            got = by(engine, dtype)
        except EngineError:
            assert engine != "compiled" or declined(cell, options)
            continue
        for name, want in exact.items():
            near = 1e-9 if dtype == F64 else 1e-4
            off, of_loop = ((each[name].to(want.dtype) - want).norm() for each in (got, loop))
            # Some of the cells grow, and lose digits by any engine.
            assert off <= max(near * max(want.norm(), 1), 10 * of_loop), (engine, name)


@pytest.mark.usefixtures("_as_plain_functions")
@given(steps=st.integers(1, 12), batch=st.integers(0, 3), bias=st.booleans())
@settings(max_examples=20)
def test_any_length_and_batch(steps, batch, bias):
    loop, found = both("peephole_lstm", {"bias": bias}, {}, steps, batch)
    assert_equal(found, loop)


@pytest.mark.usefixtures("_as_plain_functions")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cell", ["peephole_lstm", "gru_v1", "layernorm_lstm"])
def test_second_derivatives(cell, packed):
    def penalty(engine):
        rnn = build(cell, engine=engine)
        x = normal(5, 2, 3)
        given = pack_padded_sequence(x, [5, 3]) if packed else x
        output = rnn(given)[0].data if packed else rnn(given)[0]
        (slope,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        inputs = {"x": x, **dict(rnn.named_parameters())}
        found = torch.autograd.grad(slope.square().sum(), inputs.values(), materialize_grads=True)
        return dict(zip(inputs, found, strict=True))

    assert_same(penalty("compiled"), penalty("loop"))


@pytest.mark.usefixtures("_as_plain_functions")
def test_second_derivatives_by_a_weight_that_comes_twice():
    def slope(engine):
        rnn = RNN("elman", 4, 4, engine=engine, dtype=F64)
        shake(rnn)
        rnn.weight_hh_l0, rnn.bias_hh_l0 = rnn.weight_ih_l0, rnn.bias_ih_l0
        inputs = dict(rnn.named_parameters())
        loss = rnn(normal(5, 2, 4))[0].square().sum()
        found = torch.autograd.grad(loss, inputs.values(), create_graph=True)
        return dict(zip(inputs, found, strict=True))

    assert_same(slope("compiled"), slope("loop"))


@pytest.mark.usefixtures("_as_plain_functions")
def test_only_what_is_wanted_and_no_gradient_at_all():
    rnn = build("lstm", engine="compiled").requires_grad_(False)
    x = normal(5, 2, 3)
    rnn(x)[0].sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(rnn(x)[0], build("lstm", engine="loop")(x)[0])


def as_far_from_float64_as_the_loop(cell, dtype):
    """Outputs, final states and every gradient; float32 here is under autocast to bfloat16.

    What differs is the order of the sums and where they are rounded, so that in a single run
    either may be nearer by chance: the errors are means over several.
    """

    def run(seed, engine, dtype, autocast=False):
        torch.manual_seed(seed)
        rnn = RNN(cell, 24, 16, engine=engine, dtype=F64).to(dtype)
        x = normal(12, 5, 24, seed=seed).detach().to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output, state = rnn(x)
        states = state if isinstance(state, tuple) else (state,)
        assert {t.dtype for t in (output, *states)} == {dtype}
        weighting = normal(*output.shape, seed=100 + seed).detach().to(dtype)
        ((output * weighting).sum() + sum(s.square().sum() for s in states)).backward()
        found = {"output": output, "x": x.grad, **{f"s{n}": s for n, s in enumerate(states)}}
        found |= {name: p.grad for name, p in rnn.named_parameters()}
        return {name: tensor.detach().double() for name, tensor in found.items()}

    off = {"loop": Counter(), "compiled": Counter()}
    for seed in range(8):
        exact = run(seed, "loop", F64)
        for engine, total in off.items():
            for name, got in run(seed, engine, dtype, autocast=dtype == torch.float32).items():
                total[name] += ((got - exact[name]).norm() / exact[name].norm()).item()
    for name, of_loop in off["loop"].items():
        assert of_loop > 0, name
        assert off["compiled"][name] <= 1.5 * of_loop, name


HALF = [torch.float32, torch.bfloat16]


@pytest.mark.usefixtures("_as_plain_functions")
@pytest.mark.parametrize("cell", ["peephole_lstm", "gru_v1", "layernorm_lstm"])
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_as_far_from_float64_as_the_loop(cell, dtype):
    as_far_from_float64_as_the_loop(cell, dtype)


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_v1", "layernorm_lstm"])
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_compiled(cell, dtype):
    as_far_from_float64_as_the_loop(cell, dtype)


@pytest.mark.usefixtures("_as_plain_functions")
@pytest.mark.parametrize("engine", ["loop", "compiled"])
@pytest.mark.parametrize("cell", ["peephole_lstm", "gru"])
def test_fewer_saved_states_give_the_same(cell, engine):
    results = []
    for steps in (None, 1, 3, 100):
        rnn = RNN(cell, 3, 4, num_layers=2, bidirectional=True, dtype=F64, engine=engine,
                  checkpoint_steps=steps)  # fmt: skip
        shake(rnn)
        x = normal(7, 2, 3)
        packed = torch.nn.utils.rnn.pack_padded_sequence(normal(7, 3, 3), [7, 4, 4])
        output, state = rnn(x)
        inputs = {"x": x, **dict(rnn.named_parameters())}
        dense = everything(output, state, inputs)
        results.append({**dense, "packed": rnn(packed)[0].data})
    for other in results[1:]:
        assert_same(other, results[0])


def test_fewer_saved_states_are_not_for_native():
    rnn = RNN("lstm", 3, 4, checkpoint_steps=2)
    assert rnn.explain() == "loop (chosen); native declined: its kernels keep every step's states"
    with pytest.raises(ValueError, match="checkpoint_steps must be greater than zero"):
        RNN("lstm", 3, 4, checkpoint_steps=0)


@pytest.mark.usefixtures("_as_plain_functions")
def test_auto_settles_on_the_fastest():
    for cell in ("lstm", "gru", "peephole_lstm"):
        rnn = RNN(cell, 3, 4)
        state = torch.get_rng_state()
        assert rnn.settle_engine() == []
        assert rnn.engine == "compiled"
        assert torch.equal(torch.get_rng_state(), state)
        assert all(p.grad is None for p in rnn.parameters())
    rnn = RNN("peephole_lstm", 3, 4, engine="loop")
    assert (rnn.settle_engine(), rnn.engine) == ([], "loop")


class Counting(GatedCell):
    """A projection that counts, in training, the rows that it has seen."""

    gates = ("n",)

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.register_buffer("rows", torch.zeros(()))

    def project(self, x):
        if self.training:
            self.rows.add_(x.shape[0])
        return self.project_gates(x)

    def update(self, a, s):
        return torch.tanh(a.n)


@pytest.mark.usefixtures("_as_plain_functions")
def test_what_only_looks_at_a_cell_leaves_its_buffers():
    rnn = RNN(Counting, 3, 4)
    assert rnn.settle_engine() == []
    assert (rnn.engine, rnn.rows_l0.item()) == ("compiled", 0)
    rnn(torch.zeros(5, 2, 3))
    assert rnn.rows_l0.item() == 5


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize(("cell", "engine"), [("peephole_lstm", "loop"), ("gru", "native")])
def test_auto_settles_on_another_where_nothing_can_be_compiled(cell, engine, monkeypatch):
    def no_compiler(*arguments, **keywords):
        raise FileNotFoundError("no C++ compiler")

    monkeypatch.setattr(inductor, "build", no_compiler)
    rnn = RNN(cell, 3, 4)
    assert rnn.settle_engine() == ["FileNotFoundError: no C++ compiler"]
    assert rnn.engine == engine


@pytest.mark.usefixtures("_as_plain_functions")
def test_auto_is_compiled_from_the_first_call_with_gradients_on(monkeypatch):
    rnn, x = RNN("peephole_lstm", 3, 4), torch.randn(5, 2, 3)
    rnn(x)
    assert rnn.ran.startswith("loop (chosen)")  # CELLZOO_COMPILE=0 in tests
    monkeypatch.delenv("CELLZOO_COMPILE")
    with torch.no_grad():
        rnn(x)
    assert rnn.ran.startswith("loop (chosen)")
    rnn(x)
    assert rnn.ran == rnn.explain() == "compiled (chosen)"
    rnn.eval()
    with torch.no_grad():  # once it is compiled, without gradients too
        rnn(x)
    assert rnn.ran == "compiled (chosen)"
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        rnn(x)
    assert rnn.ran.startswith("loop (chosen); compiled declined: a dispatch mode does not see")
    assert counter.get_total_flops() == 2 * 5 * 2 * 16 * (3 + 4)
    assert rnn.engine == "auto"


@pytest.mark.usefixtures("_own_cache")
def test_auto_tries_to_compile_once(monkeypatch):
    tried = []

    def no_compiler(*arguments, **keywords):
        tried.append(1)
        raise FileNotFoundError("no C++ compiler")

    monkeypatch.setattr(inductor, "build", no_compiler)
    monkeypatch.delenv("CELLZOO_COMPILE")
    rnn = RNN("gru", 3, 4)
    for _ in range(2):
        rnn(torch.randn(5, 2, 3))
        assert rnn.ran == ("native (chosen); compiled declined: FileNotFoundError: no C++ compiler")
    assert tried == [1, 1]  # forward and backward


def test_whatever_makes_a_library_is_part_of_its_key(monkeypatch, tmp_path):
    """A library that an earlier version left must not be found by a later one."""
    for room in ("cells", "engines"):
        shutil.copytree(PACKAGE / room, tmp_path / room)
    compiled_ = tmp_path / "engines" / "compiled"
    monkeypatch.setattr(compiler, "__file__", str(compiled_ / "cpu" / "compiler.py"))
    before = compiler._sources.__wrapped__()
    for name in ("cpu/compiler.py", "cpu/library.py", "cpu/programs.py", "programs.py", "steps.py",
                 "cpu/runtime.h", "../../cells/base.py"):  # fmt: skip
        with (compiled_ / name).open("a") as file:
            file.write("\n")
        after = compiler._sources.__wrapped__()
        assert after != before, name
        before = after


def imported_by(path):
    """The files of this package that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            module = PACKAGE.parent / name.replace(".", "/")
            for file in (module.with_suffix(".py"), module / "__init__.py"):
                if file.is_relative_to(PACKAGE) and file.exists():
                    yield file


def test_all_that_compiled_code_imports_is_part_of_its_key():
    reached, pending = set(), [*(PACKAGE / "engines" / "compiled").rglob("*.py")]
    while pending:
        path = pending.pop()
        pending += {*imported_by(path)} - reached
        reached.add(path)
    assert PACKAGE / "cells" / "prepared.py" in reached
    # These rooms know nothing of cells, nor of what a library reads and writes.
    outside = {p for p in reached if p.relative_to(PACKAGE).parts[0] in ("names", "system")}
    assert reached - outside <= {*compiler._source_files()}


@pytest.mark.parametrize("version", ["2.12.1", "2.14.0", "2.130.0", "3.0.0"])
def test_a_version_of_torch_that_inductor_was_not_verified_for_is_declined(version, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(inductor, "source_of", None)  # nothing is patched or compiled
    reason = f"its use of inductor is verified for torch 2.13.*, not {version}"
    with pytest.raises(EngineError, match=re.escape(reason)):
        RNN("lstm", 3, 4, engine="compiled")(torch.zeros(2, 1, 3))
    rnn = RNN("peephole_lstm", 3, 4)
    assert rnn.settle_engine() == [
        f"engine 'compiled' cannot run peephole_lstm: compiled declined: {reason}"
    ]
    assert rnn.engine == "loop"


@pytest.mark.parametrize(
    ("project", "product", "completes"),
    [
        (lambda cell, x: cell.project_gates(x), "weight_ih bias_ih", False),
        (lambda cell, x: linear(x, cell.weight_ih), "weight_ih", False),
        (lambda cell, x: cell.project_gates(x, n=torch.tanh), "weight_ih bias_ih", True),
        (lambda cell, x: linear(x, cell.weight_ih) * cell.scale, "weight_ih", True),
        (lambda cell, x: {"all": linear(x, cell.weight_ih), "more": x[..., :1]}, "", False),
        (
            lambda cell, x: {"all": (y := cell.project_gates(x)), "more": 2 * y},
            "weight_ih bias_ih",
            True,
        ),
        (lambda cell, x: cell.project_gates(2 * x), "", False),
        (lambda cell, x: x @ cell.weight_ih.T, "", False),
        (lambda cell, x: linear(linear(x, cell.weight_ih), cell.square), "", False),
        (lambda cell, x: linear(x, cell.weight_ih) - linear(x, cell.weight_ih).mean(0), "", False),
        (lambda cell, x: linear(x, cell.weight_ih) + cell.weight_ih.sum(), "", False),
        (lambda cell, x: torch.dropout(cell.project_gates(x), 0.5, True), "", False),
        (lambda cell, x: cell.project_gates(x) / x.shape[-1], "", False),
        (lambda cell, x: (y := cell.project_gates(x)) - y.mean(0), "", False),
        (lambda cell, x: cell.project_gates(x) * cell.mask, "", False),
    ],
)
def test_which_projections_are_one_product_and_what_a_step_makes_of_it(project, product, completes):
    class Cell(GatedCell):
        gates = ("n",)
        extra = {
            "scale": Extra("hidden_size", init=0.0),
            "square": Extra("hidden_size", "hidden_size"),
        }

        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.register_buffer("mask", torch.ones(4))

        def update(self, a, s):
            return torch.tanh(a.x.all + a.h.all)

    Cell.project = project
    steps = Steps(PreparedCell(Cell(3, 4)))
    assert steps.projection == tuple(product.split())
    assert steps.completes == completes


def test_declines_with_a_reason():
    rnn = RNN("lstm", 3, 4, engine="compiled")
    with (
        torch.autocast("cpu", torch.float16),
        pytest.raises(EngineError, match=r"autocast to torch\.float16"),
    ):
        rnn(torch.zeros(2, 1, 3))
    with pytest.raises(EngineError, match=r"not tested with torch\.float16"):
        rnn.half()(torch.zeros(2, 1, 3, dtype=torch.float16))
    reasons = {case.id: declined(case.values[0], case.values[2]) for case in CASES}
    assert {name for name, reason in reasons.items() if reason} == {"StepIndex", "ComplexState"}
    assert RNN("peephole_lstm", 3, 4).explain().startswith("loop")


# -- compiled for real: a sample that covers each feature of the contract ----------------------


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(programs, "_programs", {})


@pytest.fixture
def compilations(monkeypatch):
    """What is compiled, as it is compiled."""
    count, compile_ = [], inductor.build

    def counting(*arguments, **keywords):
        count.append(keywords)
        return compile_(*arguments, **keywords)

    monkeypatch.setattr(inductor, "build", counting)
    return count


def of_lengths(cell, engine, sizes, lengths, threads, packed=True, dtype=F64, seed=0, **options):
    """Everything that a run of sequences of these lengths gives, gradients included."""
    rnn = RNN(cell, *sizes, engine=engine, dtype=F64, **options)
    shake(rnn, seed)
    batch = len(lengths)
    x, state = normal(max(lengths), batch, sizes[0], seed=seed), random_state(rnn, batch, seed)
    rnn, x, *state = (t.to(dtype) for t in (rnn, x, *state))
    inputs = with_gradient(x=x, **{f"s{i}": s for i, s in enumerate(state)})
    inputs |= dict(rnn.named_parameters())
    given = pack_padded_sequence(x, lengths, enforce_sorted=False) if packed else x
    with on_threads(threads):
        output, final = rnn(given, in_form(tuple(state)))
        output = pad_packed_sequence(output)[0] if packed else output
        return everything(output, final, inputs)


# Each feature of the contract: peepholes, a product within the step, norms over all gates, a
# projected output, heads, operands and diagonals of several states, derived weights, cumulative
# sums, states as wide as an option says, late products with biases beside an early sum.
SAMPLE = ["HeadsBlocks", "SeveralOperandsWithMixedOrder", "LateDiagonalBlocks", "LowRankWeight",
          "AParameterThroughAFunction", "OutputThatIsNoState"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("peephole_lstm", {}),
        ("gru", {}),
        ("gru_v1", {}),
        ("layernorm_lstm", {}),
        ("layernorm_elman", {}),
        ("on_lstm", {}),
        ("rhn", {}),
        ("scrn", {}),
        ("lstm", {"proj_size": 2}),
        *(pytest.param(c.values[0], c.values[2], id=c.id) for c in CASES if c.id in SAMPLE),
    ],
)
def test_compiled_for_real_at_several_sizes(cell, options, compilations, monkeypatch):
    monkeypatch.setattr(
        cpu_programs, "ALONE", 1
    )  # parts of a batch, each by a thread, however small
    for steps, batch, input_size, hidden_size, threads in (
        (9, 2, 4, 4, 1), (8, 7, 4, 4, 3), (1, 1, 4, 4, 2), (4, 1, 5, 16, 1), (5, 16, 16, 16, 2),
        (3, 20, 20, 40, 3),
    ):  # fmt: skip
        sizes = input_size, hidden_size
        loop, found = (
            of_lengths(cell, engine, sizes, [steps] * batch, threads, packed=False, **options)
            for engine in ("loop", "compiled")
        )
        assert_equal(found, loop)
    for lengths, threads in (
        ([1, 5, 2, 5], 1), ([3, 3, 3], 2), ([4], 2), ([1, 1], 2), ([6, 5, 4, 3, 2, 1], 3),
        ([9, 1, 1], 2),
    ):  # fmt: skip
        loop, found = (
            of_lengths(cell, engine, (4, 4), lengths, threads, num_layers=2, bidirectional=True,
                       **options)
            for engine in ("loop", "compiled")
        )  # fmt: skip
        assert_equal(found, loop)
    assert len(compilations) == 2  # one forward and one backward served all sizes


@pytest.mark.slow
def test_packed_compiled_for_real(tmp_path):
    """Lengths, threads and stacks at random, to the rounding of the loop in float64."""

    @given(
        lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9),
        threads=st.integers(1, 3),
        hidden_size=st.integers(1, 20),
        layers=st.integers(1, 2),
        bidirectional=st.booleans(),
        dtype=st.sampled_from([torch.float32, F64]),
        seed=st.integers(0, 1000),
    )
    @settings(max_examples=60, deadline=None)
    def agree(lengths, threads, hidden_size, layers, bidirectional, dtype, seed):
        shape = (3, hidden_size), lengths, threads
        stack = {"num_layers": layers, "bidirectional": bidirectional, "seed": seed}
        exact = of_lengths("peephole_lstm", "loop", *shape, **stack)
        got = of_lengths("peephole_lstm", "compiled", *shape, dtype=dtype, **stack)
        for name, want in exact.items():
            near = 1e-11 if dtype == F64 else 1e-5
            assert (got[name].to(F64) - want).norm() <= near * max(want.norm(), 1), name

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        patch.setattr(programs, "_programs", {})
        patch.setattr(cpu_programs, "ALONE", 1)
        agree()


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
def test_products_of_a_whole_sequence(monkeypatch):
    monkeypatch.setattr(library, "SMALL", 1)
    RNN("elman", 3, 4, engine="compiled")(torch.zeros(2, 1, 3))
    loaded = library.Library.loaded
    for number, (rows, depth, n) in enumerate(
        [(1, 1, 1), (300, 17, 33), (70, 130, 16), (9, 5, 100)]
    ):
        x, weight = normal(rows, depth, seed=number), normal(n, depth, seed=50 + number)
        bias, gradient = normal(n, seed=60 + number), normal(rows, n, seed=70 + number)
        for dtype, near in ((F64, 1e-12), (torch.float32, 1e-5)):
            as_given = [t.detach().to(dtype) for t in (x, weight, bias, gradient)]
            x_, weight_, bias_, gradient_ = as_given
            for threads in (1, 3):
                with on_threads(threads):
                    got = loaded.linear(x_, weight_, bias_), *loaded.outer(gradient_, x_)
                want = x @ weight.T + bias, gradient.T @ x, gradient.sum(0)
                for one, other in zip(got, want, strict=True):
                    assert (one.double() - other).norm() <= near * other.norm()


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
def test_what_a_step_cannot_call_is_said():
    class Sorting(GatedCell):
        gates = ("n",)

        def update(self, a, s):
            return torch.sort(a.n, -1).values

    with pytest.raises(CompileError, match=r"a step of it calls .*sort"):
        RNN(Sorting, 3, 4, engine="compiled")(torch.zeros(2, 1, 3))


RUN = """
import sys
import time
import torch
import torch.utils.flop_counter
from cellzoo import RNN
from cellzoo.engines.compiled.cpu import inductor
count, compile_ = [], inductor.build
def counting(*arguments, **keywords):
    count.append(1)
    return compile_(*arguments, **keywords)
inductor.build = counting
torch.manual_seed(0)
rnn = RNN("cifg_lstm", 3, 4, engine="compiled")
x = torch.ones(4, 2, 3, requires_grad=True)
rnn(x)[0].sum().backward()
print(len(count), x.grad.sum().item(), "torch._inductor.compile_fx" in sys.modules)
"""


@pytest.mark.slow
def test_compiled_once_ever_and_a_torn_file_is_made_anew(tmp_path):
    def run():
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        said = subprocess.run(
            [sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=True
        )
        assert said.stderr == ""
        count, gradient, compiler = said.stdout.split()
        return int(count), gradient, compiler == "True"

    count, gradient, compiler = run()
    assert (count, compiler) == (2, True)  # forward and backward
    assert run() == (0, gradient, False)
    folder = tmp_path / "cellzoo" / "compiled"
    for kind in ("so", "json", "link"):
        files = sorted(folder.glob(f"*.{kind}"))
        assert len(files) == 2
        files[0].write_bytes(files[0].read_bytes()[:20])
        assert run()[:2] == (0 if kind == "link" else 1, gradient)


def test_a_cache_that_others_may_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache.folder()
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(CompileError, match="yours alone"):
        cache.folder()


@pytest.mark.usefixtures("_own_cache")
def test_no_compiler_is_said(monkeypatch):
    def no_compiler(*arguments, **keywords):
        raise FileNotFoundError("no C++ compiler")

    monkeypatch.setattr(inductor, "build", no_compiler)
    with pytest.raises(CompileError, match="FileNotFoundError: no C"):
        RNN("lstm", 3, 4, engine="compiled")(torch.zeros(2, 1, 3))


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
def test_functions_are_as_exact_as_their_comments_say():
    class Functions(GatedCell):
        gates = ("t", "e")
        states = ("h", "e")

        def update(self, a, s):
            return torch.tanh(a.t), torch.exp(a.e)

    rnn = RNN(Functions, 1, 16, engine="compiled", bias=False)
    with torch.no_grad():
        rnn.weight_ih_l0.fill_(1)
        rnn.weight_hh_l0.zero_()
    near_0 = torch.logspace(-30, 0, 4001)
    x = torch.cat([torch.linspace(-100, 100, 400_001), near_0, -near_0])
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0, 88.7, 88.8, -87, -200])
    with torch.no_grad():
        _, found = rnn(torch.cat([x, special])[None, :, None])
    tanh, exp = (state[0] for state in found)
    for found, exact, units in ((tanh, x.double().tanh(), 5), (exp, x.double().exp(), 2)):
        got = found[: len(x), 3]
        number = exact.abs().clamp(2.0**-126, torch.finfo(torch.float32).max)
        unit = 2.0 ** (number.log2().floor() - 23)
        off = ((got.double() - exact).abs() / unit)[(exact.abs() > 1e-37) & (exact < 3.4e38)]
        assert off.max() < units
    assert tanh.nan_to_num(0).abs().max() == 1
    want = torch.tensor([float("nan"), 1, -1, 0, 1, 1, -1, -1])
    torch.testing.assert_close(tanh[len(x) :, 3], want, equal_nan=True, rtol=0, atol=0)
    want = special.double().exp().float()
    torch.testing.assert_close(exp[len(x) :, 3], want, equal_nan=True, rtol=1e-6, atol=2e-38)


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
def test_one_row_that_lies_as_in_something_wider():
    """Such a row is contiguous, whatever its stride; rows after it are not read by that."""
    results = {"loop": {}, "compiled": {}}
    for engine, found in results.items():
        rnn = build("lstm", engine=engine)
        for steps in (1, 5):
            x = normal(steps, 3)
            output, _ = rnn(PackedSequence(x, torch.ones(steps, dtype=torch.int64)))
            wider = torch.cat([output.data, output.data.new_zeros(steps, 3)], -1)
            (wider * normal(*wider.shape, seed=1)).sum().backward()
            found[str(steps)] = x.grad
    assert_same(results["compiled"], results["loop"])


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
def test_a_late_product_has_its_bias_to_itself():
    class Late(GatedCell):
        gates = {"n": Gate(), "m": Gate(x="none", late=True)}

        def update(self, a, s):
            return torch.tanh(self.product("m", torch.tanh(a.n)))

    loop, found = both(Late, {}, {})
    assert_equal(found, loop)


@pytest.mark.slow
@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("cell", ["peephole_lstm", "gru"])
def test_a_graph_that_is_kept_can_be_used_again(cell):
    """Gradients are written over what the forward pass keeps, but for the last time only."""
    rnn = build(cell, engine="compiled")
    x = normal(5, 2, 3)
    output, _ = rnn(x)
    inputs = [x, *rnn.parameters()]
    first, second, third = (
        torch.autograd.grad(output.square().sum(), inputs, retain_graph=keep)
        for keep in (True, True, False)
    )
    for one, two, three in zip(first, second, third, strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=0)
        torch.testing.assert_close(three, one, rtol=0, atol=0)
