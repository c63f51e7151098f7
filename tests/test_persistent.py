"""The persistent engine against the loop: by Triton's interpreter on a CPU, for real on a GPU."""

import math
import os
import re
import subprocess
import sys
from unittest import mock

import pytest
import torch
from cases import CASES, Decaying, Dropping
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

from cellzoo import RNN, Extra, GatedCell, State, build_cell, list_cells
from cellzoo.cells.prepared import PreparedCell
from cellzoo.engines import EngineError
from cellzoo.engines.compiled import programs
from cellzoo.engines.compiled.cuda.traced import has_triton, loop
from cellzoo.engines.compiled.groups import Inputs
from cellzoo.engines.compiled.lengths import Lengths
from cellzoo.engines.compiled.steps import Steps
from cellzoo.engines.persistent import kernels
from cellzoo.engines.persistent.kernels import Kernels

# What the interpreter computes in a tile's padding may be no number.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter is chosen when Triton is imported, which inductor may do in other tests.
with mock.patch.dict(os.environ, {} if DEVICE == "cuda" else {"TRITON_INTERPRET": "1"}):
    if has_triton():
        import triton  # noqa: F401


@pytest.fixture
def _triton(tmp_path, monkeypatch):
    if not has_triton():
        pytest.skip("triton is not installed")
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(programs, "_programs", {})


class Dividing(GatedCell):
    """What lies in a tile's padding divides by zero here; none of it may be seen."""

    gates = ("n", "m")
    states = {"h": State(), "n": State(initial=1.0)}
    extra = {"gain": Extra("fused_size", init=0.0)}

    def update(self, a, s):
        n, m = self.split(torch.sigmoid(a.x.all + a.h.all) * torch.exp(self.gain))
        return torch.tanh(n) / s.n, 0.5 + m * m


class Swapping(GatedCell):
    """Its states change places."""

    gates = ("n",)
    states = ("h", "c")

    def update(self, a, s):
        return (s.c, s.h), torch.tanh(a.n) + s.c


class Narrow(GatedCell):
    """A state, and a parameter, of one column."""

    gates = ("n",)
    states = {"h": State(), "mean": State(1)}
    extra = {"rate": Extra(1, init=0.5)}

    def update(self, a, s):
        mean = self.rate * s.mean + (1 - self.rate) * a.n.mean(-1, keepdim=True)
        none = torch.zeros_like(s.h)  # it adds nothing but columns
        wide = (s.mean + none).sum(-1, keepdim=True) - 2 * (none + s.mean).sum(-1, keepdim=True)
        return torch.tanh(a.n - s.mean) + wide, mean


class Clipped(GatedCell):
    """Comparisons, bounds and constants."""

    gates = ("f", "n")

    def update(self, a, s):
        f = torch.clamp(0.2 * a.f + 0.5, 0, 1)
        n = torch.where(a.n > 0.3, torch.exp(-a.n), torch.maximum(a.n, s.h))
        return f * s.h + 0.9 * (1 - f) * n**3 / (1 + torch.rsqrt(1 + n.square()))


class Named(GatedCell):
    """Names that the kernel has for its own, or makes."""

    gates = ("t", "B")
    states = {"rows": State(), "h_end": State(), "h": State(), "nan": State()}

    def update(self, a, s):
        h = torch.sigmoid(a.t) * s.h + torch.tanh(a.B) * s.rows
        return h, s.nan, h * s.h_end, s.h


OWN = (Decaying, Dividing, Swapping, Narrow, Clipped, Named)
# What has widths other than multiples of H, or recurrent blocks that are no matrices.
DECLINED = {"MatricesOfItsOwn", "DiagonalBlocks", "LateDiagonalBlocks", "HeadsBlocks",
            "SeveralOperandsWithMixedOrder", "ContextOfItsOwnWidth", "OutputThatIsNoState",
            "StepIndex", "ComplexState", "AParameterThroughAFunction"}  # fmt: skip
NAMES = ("lstm", "peephole_lstm", "cifg_lstm", "layernorm_lstm", "gru", "gru_v1", "elman")
CELLS = [
    *(pytest.param(name, {}, id=name) for name in NAMES),
    pytest.param("elman", {"nonlinearity": "relu"}, id="relu"),
    *(pytest.param(c, {}, id=c.__name__) for c in OWN),
    *(pytest.param(c.values[0], c.values[2], id=c.id) for c in CASES if c.id not in DECLINED),
]


def run(cell, options, engine, shape, dtype=F64, device="cpu", **stack):
    """Everything that a run gives, gradients included, on the CPU in float64."""
    steps, batch, input_size, hidden_size = shape
    rnn = RNN(cell, input_size, hidden_size, engine=engine, dtype=F64, **options, **stack)
    shake(rnn)
    x, state = normal(steps, batch, input_size), random_state(rnn, batch)
    rnn, state = rnn.to(device, dtype), [s.detach().to(device, dtype) for s in state]
    inputs = with_gradient(x=x.detach().to(device, dtype).requires_grad_())
    inputs |= {f"s{i}": s.requires_grad_() for i, s in enumerate(state)}
    torch.manual_seed(0)
    output, final = rnn(inputs["x"], in_form(tuple(state)))
    finals = final if isinstance(final, tuple) else (final,)
    inputs |= dict(rnn.named_parameters())
    exact = (output.to("cpu", F64), tuple(each.to("cpu", F64) for each in finals))
    return {name: tensor.to("cpu", F64) for name, tensor in everything(*exact, inputs).items()}


def assert_agrees(cell, options, shape, **stack):
    """Under the interpreter in float64; a GPU's float32 is as far from float64 as the loop's."""
    exact = run(cell, options, "loop", shape, **stack)
    if DEVICE == "cpu":
        got = run(cell, options, "persistent", shape, **stack)
        assert got.keys() == exact.keys()
        for name in exact:
            torch.testing.assert_close(got[name], exact[name], rtol=1e-9, atol=1e-10)
        return
    loop, got = (
        run(cell, options, engine, shape, torch.float32, DEVICE, **stack)
        for engine in ("loop", "persistent")
    )
    for name, want in exact.items():
        off = [((each[name] - want).norm() / (want.norm() + 1e-6)).item() for each in (loop, got)]
        assert off[1] < 4 * off[0] + 1e-5, (name, off)


SHAPES = [(5, 2, 3, 4), (3, 19, 3, 7), (2, 1, 3, 16)]  # the second: two programs, and padding


@pytest.mark.usefixtures("_triton")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("cell", "options"), CELLS)
def test_equals_the_loop(cell, options, shape):
    assert_agrees(cell, options, shape)


@pytest.mark.usefixtures("_triton")
@pytest.mark.parametrize("cell", sorted({*list_cells()} - {*NAMES}) or NAMES[:1])
def test_any_other_cell_runs_or_says_why(cell):
    if any(state.dtype for state in build_cell(cell, 3, 4).layout.states.values()):
        with pytest.raises(EngineError, match="is not torch"):
            RNN(cell, 3, 4, engine="persistent", device=DEVICE)(torch.zeros(2, 1, 3, device=DEVICE))
        return
    why = None
    try:
        run(cell, {}, "persistent", SHAPES[0], torch.float32, DEVICE)
    except EngineError as error:
        why = str(error)
    if why is None:
        assert_agrees(cell, {}, SHAPES[0])
    else:
        assert re.search("no kernel has|cannot run", why)


@pytest.mark.usefixtures("_triton")
@pytest.mark.parametrize("cell", ["peephole_lstm", "gru_v1", "layernorm_lstm"])
def test_layers_and_directions(cell):
    assert_agrees(cell, {}, (4, 17, 3, 5), num_layers=2, bidirectional=True)
    assert_agrees(cell, {"bias": False}, (4, 3, 3, 5), checkpoint_steps=3)


@pytest.mark.usefixtures("_triton")
@given(
    steps=st.integers(1, 5),
    batch=st.integers(0, 20),
    input_size=st.integers(1, 5),
    hidden_size=st.integers(1, 20),
)
@settings(max_examples=15, deadline=None)
def test_any_shape(steps, batch, input_size, hidden_size):
    assert_agrees("peephole_lstm", {}, (steps, batch, input_size, hidden_size))


@pytest.mark.usefixtures("_triton")
def test_masks_are_drawn_before_the_kernel():
    assert_agrees(Dropping, {}, (5, 3, 3, 5))


@pytest.mark.usefixtures("_triton")
@pytest.mark.skipif(DEVICE == "cuda", reason="compared in float64, which is the interpreter's")
@pytest.mark.parametrize("cell", ["peephole_lstm", "gru", "layernorm_lstm"])
def test_packed(cell):
    rnn = RNN(cell, 3, 4, bidirectional=True, engine="persistent", dtype=F64)
    shake(rnn)
    assert_packed_is_alone(rnn, [1, 5, 2, 5], enforce_sorted=False)


@pytest.mark.usefixtures("_triton")
@pytest.mark.skipif(DEVICE == "cuda", reason="compared in float64, which is the interpreter's")
def test_second_derivatives():
    def penalty(engine):
        rnn = RNN("peephole_lstm", 3, 4, engine=engine, dtype=F64)
        shake(rnn)
        x = normal(5, 2, 3)
        (slope,) = torch.autograd.grad(rnn(x)[0].sum(), x, create_graph=True)
        inputs = {"x": x, **dict(rnn.named_parameters())}
        found = torch.autograd.grad(slope.square().sum(), inputs.values(), materialize_grads=True)
        return dict(zip(inputs, found, strict=True))

    assert_same(penalty("persistent"), penalty("loop"))


# The interpreter multiplies no bfloat16.
HALF = [torch.float16] if DEVICE == "cpu" else [torch.float16, torch.bfloat16]


@pytest.mark.usefixtures("_triton")
@pytest.mark.parametrize("half", [None, *HALF], ids=str)
@pytest.mark.parametrize("cell", ["peephole_lstm", "gru_v1", "layernorm_lstm"])
def test_is_as_far_from_float64_as_the_loop(cell, half):
    """In float32, and under autocast: products in half precision, the rest in float32."""

    def found(engine, dtype, autocast):
        with torch.autocast(DEVICE, half or torch.bfloat16, enabled=autocast):
            return run(cell, {}, engine, (12, 4, 8, 16), dtype, DEVICE)

    exact = found("loop", F64, False)
    loop, got = (found(e, torch.float32, half is not None) for e in ("loop", "persistent"))
    for name, want in exact.items():
        off = [((each[name] - want).norm() / want.norm()).item() for each in (loop, got)]
        assert off[1] < 2 * off[0] + (1e-6 if half is None else 1e-3), name


@pytest.mark.usefixtures("_triton")
def test_tanh_near_zero():
    """tanh(x) ≈ x there; a difference of numbers near 1 would lose it."""
    rnn = RNN("elman", 1, 16, engine="persistent", device=DEVICE)
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.zero_()
        rnn.weight_ih_l0.fill_(1.0)
        x = torch.tensor([1e-6, 1e-3, 0.1, 0.62, 0.63, 3.0, -20.0], device=DEVICE).view(1, 7, 1)
        got, want = rnn(x)[0][0, :, 0].double().cpu(), torch.tanh(x.double()).flatten().cpu()
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


# -- what no kernel has -------------------------------------------------------------------------


def test_declines_where_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    rnn = RNN("peephole_lstm", 3, 4, engine="persistent")
    with pytest.raises(EngineError, match="its kernels are for CUDA"):
        rnn(torch.zeros(2, 1, 3))


@pytest.mark.usefixtures("_triton")
def test_declines_with_a_reason():
    x = torch.zeros(2, 1, 3, device=DEVICE)
    with pytest.raises(EngineError, match="its matrices take 256 KiB, and 128 are on chip"):
        RNN("lstm", 3, 128, engine="persistent", device=DEVICE)(x)
    with pytest.raises(EngineError, match=r"not tested with torch\.bfloat16"):
        RNN("lstm", 3, 4, engine="persistent", device=DEVICE).bfloat16()(x.bfloat16())
    if DEVICE == "cpu":
        with (
            torch.autocast("cpu", torch.bfloat16),
            pytest.raises(EngineError, match="interpreter does not multiply bfloat16"),
        ):
            RNN("lstm", 3, 4, engine="persistent")(x)


class CumulativeSum(GatedCell):
    gates = ("n",)

    def update(self, a, s):
        return torch.tanh(torch.cumsum(a.n, -1))


class Periods(GatedCell):
    gates = ("n",)

    def update(self, a, s):
        return torch.tanh(a.n) * torch.tensor([1.0, 2.0, 3.0, 4.0]).to(s.h)


@pytest.mark.usefixtures("_triton")
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (CumulativeSum, r"no kernel has aten\.cumsum"),
        (Periods, "no kernel has a tensor that the update makes of numbers"),
        *(
            (c.values[0], f"no kernel has {what}")
            for c in CASES
            for name, what in {
                "DiagonalBlocks": r"aten\.unsqueeze",
                "ContextOfItsOwnWidth": r"context of \(\d+, 2\): .* multiples of the hidden size",
                "MatricesOfItsOwn": r"u_down of \(\d, \d\)",
            }.items()
            if c.id == name
        ),
    ],
)
def test_what_no_kernel_has_is_named(cell, message):
    rnn = RNN(cell, 3, 4, engine="persistent", device=DEVICE)
    with pytest.raises(EngineError, match=message):
        rnn(torch.zeros(2, 1, 3, device=DEVICE))


# -- the source ---------------------------------------------------------------------------------


class Written(Kernels):
    """Writes kernels and runs none."""

    def make(self, call):
        self.text = kernels.source(call).text
        return loop


def source(name):
    """A forward kernel's source, at H = 7."""
    cell = RNN(name, 3, 7).cell()
    prepared = PreparedCell(cell)
    projected = cell.project_sequence(torch.zeros(3, 2, 3), None)
    written = Written(Steps(prepared, complete=False))
    rows = [tensor.flatten(0, 1) for tensor in projected.values()]
    parameters = written.steps.parameters_of(prepared)
    written.forward(Lengths([2, 2, 2]), Inputs(rows, cell.initial_state(2), [], *parameters))
    return written.text


def test_source_reads_like_the_cell():
    text = source("elman")
    compile(text, "elman", "exec")
    for line in (
        "def elman_forward(",
        "        x = tl.load(x_ptr + at * 7 + columns, mask=row & unit, other=0.0)",
        "        masked_mm0 = tl.where(unit, h, 0.0)",
        "        h = tanh0",
    ):
        assert line in text.splitlines()
    assert re.search(r"mm0 = tl\.dot\(masked_mm0, u_n\w*, input_precision=PRECISION\)", text)


def test_names_are_nobodys_twice():
    text = source(Named)
    arguments = text.split("def Named_forward(")[1].split("):")[0].split("\n")
    assert len(set(arguments[1:-1])) == len(arguments[1:-1]) > 15


COMPILED = """
import sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cellzoo import RNN
from cellzoo.engines import persistent
from cellzoo.engines.persistent import kernels
from cellzoo.engines.persistent.kernels import Kernels
from cellzoo.engines.persistent.kernels import Kernel

KINDS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}

def launch(self, programs, *arguments):
    names = self._function.arg_names
    signature, constants = {}, {}
    for number, (name, value) in enumerate(zip(names, arguments, strict=True)):
        if isinstance(value, torch.Tensor):
            signature[name] = KINDS[value.dtype]
        elif name in ("T", "B"):
            signature[name] = "i32"
        else:
            signature[name] = "constexpr"
            constants[number,] = value
    for capability in (80, 90):
        made = triton.compile(
            ASTSource(fn=self._function, signature=signature, constexprs=constants),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": kernels.WARPS, "num_stages": kernels.STAGES},
        )
        print(self.source.name, capability, "cubin" in made.asm, made.metadata.shared)

Kernel._launch = launch
persistent.declines = lambda *arguments: None
for cell in sys.argv[1:]:
    rnn = RNN(cell, 8, 64, engine="persistent")
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            rnn(torch.zeros(2, 3, 8))[0].sum().backward()
"""


@pytest.mark.slow
@pytest.mark.skipif(not has_triton(), reason="triton is not installed")
def test_triton_compiles_the_kernels_for_gpus(tmp_path):
    """Triton's compiler needs no GPU; at H = 64 all that a program keeps fits an A100's 163 KiB."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    said = subprocess.run(
        [sys.executable, "-c", COMPILED, *NAMES],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    lines = [line.split() for line in said.stdout.splitlines()]
    assert len(lines) == len(NAMES) * 2 * 2 * 2  # direction, autocast, GPU
    for _, _, made, shared in lines:
        assert made == "True"
        assert int(shared) < 163 << 10


@pytest.mark.usefixtures("_triton")
def test_the_source_is_kept_where_it_can_be_read(tmp_path):
    rnn = RNN("cifg_lstm", 3, 4, engine="persistent", device=DEVICE)
    output, _ = rnn(torch.zeros(2, 1, 3, device=DEVICE))
    output.sum().backward()
    names = [path.name.split("-")[0] for path in tmp_path.rglob("*.py")]
    assert sorted(names) == ["cifg_lstm_backward", "cifg_lstm_forward"]
    assert math.isfinite(output.sum().item())
