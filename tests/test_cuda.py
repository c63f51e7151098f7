"""The compiled engine on CUDA: its chunks on the CPU, and all of it where there is a GPU."""

import threading
import types

import pytest
import torch
from cases import CASES, build
from helpers import (
    F64,
    assert_equal,
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
from torch.nn.utils.rnn import pack_padded_sequence

from cellzoo import RNN, GatedCell, build_cell, list_cells
from cellzoo.engines import CompileError, EngineError, compiled
from cellzoo.engines.compiled import programs
from cellzoo.engines.compiled.cuda import chunks
from cellzoo.engines.compiled.cuda.chunks import Chunked, Chunks, Graph, signature, spans
from cellzoo.engines.compiled.cuda.traced import loop
from cellzoo.engines.packing import Layer

DECLINED = {"StepIndex", "ComplexState"}


def is_compiled(name):
    """Whether the engine takes a registered cell."""
    cell = build_cell(name, 4, 4)
    states = all(state.dtype is None for state in cell.layout.states.values())
    return states and (cell.engines is None or "compiled" in cell.engines)


CELLS = [
    *(pytest.param(name, {}, id=name) for name in list_cells() if is_compiled(name)),
    *(pytest.param(c.values[0], c.values[2], id=c.id) for c in CASES if c.id not in DECLINED),
]


def stand_in(function, flat):
    """What a capture gives, on the CPU: memory of its own, filled only when it is replayed."""
    inputs = [tensor.clone() for tensor in flat]
    outputs = function(inputs)
    own = [o for o in outputs if all(o.data_ptr() != tensor.data_ptr() for tensor in inputs)]
    for output in own:
        output.fill_(torch.nan)

    def replay():
        for output, new in zip(outputs, function(inputs), strict=True):
            output.copy_(new)

    return Graph(inputs, outputs, replay)


@pytest.fixture
def _chunked(monkeypatch):
    """The CPU's steps by chunks of at most 4, uncompiled, with a stand-in for the capture."""
    monkeypatch.setitem(compiled.PROGRAMS, "cpu", Chunked)
    monkeypatch.setattr(chunks, "CHUNK", 4)
    monkeypatch.setattr(chunks, "capture", stand_in)
    monkeypatch.setattr(chunks, "COMPILE", False)
    monkeypatch.setattr(programs, "_programs", {})


def results(rnn, steps, batch):
    """Everything that a run gives, gradients included."""
    x, state = normal(steps, batch, rnn.input_size), random_state(rnn, batch)
    inputs = with_gradient(x=x, **{f"s{i}": s for i, s in enumerate(state)})
    return everything(*rnn(x, in_form(state)), inputs | dict(rnn.named_parameters()))


@pytest.mark.usefixtures("_chunked")
@pytest.mark.parametrize(("cell", "options"), CELLS)
def test_chunks_equal_the_loop(cell, options):
    """Three times: launch by launch, captured, replayed."""
    want = results(build(cell, engine="loop", **options), 9, 2)
    for _ in range(3):
        assert_equal(results(build(cell, engine="compiled", **options), 9, 2), want)


@pytest.mark.usefixtures("_chunked")
@given(steps=st.integers(1, 13), batch=st.integers(0, 3), bidirectional=st.booleans())
@settings(max_examples=20)
def test_any_length_and_batch(steps, batch, bidirectional):
    options = {"bidirectional": bidirectional}
    want = results(build("peephole_lstm", engine="loop", **options), steps, batch)
    for _ in range(3):
        got = results(build("peephole_lstm", engine="compiled", **options), steps, batch)
        assert_equal(got, want)


class Swapping(GatedCell):
    """Its states change places: what is carried on lies where it was handed in."""

    gates = ("n",)
    states = ("h", "c")

    def update(self, a, s):
        return (s.c, s.h), torch.tanh(a.n) + s.c


@pytest.mark.usefixtures("_chunked")
def test_states_that_change_places(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 1)  # a graph is handed its own results, changed about
    want = results(build(Swapping, engine="loop"), 11, 2)
    for _ in range(3):
        assert_equal(results(build(Swapping, engine="compiled"), 11, 2), want)


@given(length=st.integers(1, 300))
def test_spans_are_few_and_leave_nothing_out(length):
    found = spans(length)
    assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])]
    assert found[-1][1] == length
    sizes = [stop - start for start, stop in found]
    assert set(sizes) <= {1, 2, 4, 8, 16, 32}
    assert len(sizes) <= length // 32 + 5


def running_sum(carry, now, shared):
    total = carry[0] + now[0] * shared[0]
    return [total], [total.clone()]


@pytest.fixture
def captured(monkeypatch):
    """What is captured, as it is captured."""
    shapes = []

    def noted(function, flat):
        shapes.append(tuple(flat[1].shape))
        return stand_in(function, flat)

    monkeypatch.setattr(chunks, "CHUNK", 4)
    monkeypatch.setattr(chunks, "capture", noted)
    return shapes


def test_what_is_met_once_is_not_captured_and_few_graphs_are_kept(captured, monkeypatch):
    monkeypatch.setattr(chunks, "GRAPHS", 3)
    run = Chunks()

    def call(length, batch):
        inputs = [torch.ones(batch, 2), torch.randn(length, batch, 2), torch.full((2,), 3.0)]
        got = run(running_sum, inputs[:1], inputs[1:2], inputs[2:])
        want = loop(running_sum, inputs[:1], inputs[1:2], inputs[2:])
        torch.testing.assert_close(got, want)

    call(5, 1)  # a chunk of 4 and one of 1, each for the first time
    assert captured == []
    call(9, 1)
    assert captured == [(4, 1, 2), (1, 1, 2)]
    call(13, 1)
    assert len(captured) == 2
    for batch in range(2, 8):
        call(4, batch)
    assert len(run._graphs) == 3
    call(4, 1)  # forgotten since
    call(4, 1)
    assert captured[2:] == [(4, 1, 2)]


def test_a_graph_is_for_one_shape_dtype_and_rounding():
    tensors = [torch.zeros(2, 3), torch.zeros(4)]
    same = signature([torch.ones(2, 3), torch.ones(4)])
    assert signature(tensors) == same
    assert signature([torch.zeros(3, 2), torch.zeros(4)]) != same
    assert signature([torch.zeros(2, 3), torch.zeros(4, dtype=F64)]) != same
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        assert signature(tensors) != same
    finally:
        matmul.fp32_precision = before


def test_inference_first_and_training_after(captured):
    """A graph's memory is written again outside of inference mode."""
    run = Chunks()
    arguments = [torch.ones(2, 2)], [torch.randn(12, 2, 2)], [torch.ones(2)]
    want = loop(running_sum, *arguments)
    with torch.inference_mode():
        inner = [[tensor.clone() for tensor in group] for group in arguments]
        torch.testing.assert_close(run(running_sum, *inner), want)
    assert len(captured) == 1
    torch.testing.assert_close(run(running_sum, *arguments), want)


def test_results_outlive_the_next_call(captured):
    run, found, want = Chunks(), [], []
    for seed in range(4):
        inputs = torch.randn(8, 2, 2, generator=torch.Generator().manual_seed(seed))
        arguments = [torch.ones(2, 2)], [inputs], [torch.ones(2)]
        found.append(run(running_sum, *arguments))
        want.append(loop(running_sum, *arguments))
    assert len(captured) == 1
    torch.testing.assert_close(found, want, rtol=0, atol=0)


def test_threads_take_turns(captured):
    run, wrong = Chunks(), []

    def work(seed):
        inputs = torch.randn(23, 2, 2, generator=torch.Generator().manual_seed(seed))
        arguments = [torch.ones(2, 2)], [inputs], [torch.ones(2)]
        want = loop(running_sum, *arguments)
        for _ in range(20):
            _, (got,) = run(running_sum, *arguments)
            if not torch.equal(got, want[1][0]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["peephole_lstm", "gru_v1", "layernorm_lstm"])
def test_the_step_compiles_for_all_sizes(cell, monkeypatch, tmp_path):
    """By the compiler for the CPU, which sees the same graph."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(compiled.PROGRAMS, "cpu", Chunked)
    monkeypatch.setattr(chunks, "capture", stand_in)
    monkeypatch.setattr(chunks, "CHUNK", 4)
    monkeypatch.setattr(programs, "_programs", {})
    for steps, batch, input_size, hidden_size in ((9, 2, 4, 4), (8, 7, 4, 4), (9, 1, 5, 16)):
        found = []
        for engine in ("loop", "compiled"):
            rnn = RNN(cell, input_size, hidden_size, engine=engine, dtype=F64)
            shake(rnn)
            found.append(results(rnn, steps, batch))
        assert_equal(found[1], found[0])


@pytest.mark.usefixtures("_chunked")
def test_what_the_compiler_says_is_handed_on(monkeypatch):
    def backend(*arguments):
        raise RuntimeError("no compiler here")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: compile_(*a, backend=backend, **k))
    monkeypatch.setattr(chunks, "COMPILE", True)
    with pytest.raises(CompileError, match="no compiler here"):
        RNN("elman", 3, 4, engine="compiled")(torch.zeros(2, 1, 3))


def test_says_what_it_lacks(monkeypatch):
    with pytest.raises(EngineError, match="not written for meta"):
        RNN("lstm", 3, 4, engine="compiled", device="meta")(torch.zeros(2, 1, 3, device="meta"))
    monkeypatch.setattr(compiled, "has_triton", lambda: False)
    like = types.SimpleNamespace(dtype=torch.float32, device=torch.device("cuda"))
    cell = types.SimpleNamespace(_like=like)
    assert "triton" in compiled.declines(Layer([cell], torch.zeros(2, 1, 3)))


# -- on a GPU: written where there was none, and never run --------------------------------------

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
ON_GPU = [c for c in CELLS if c.id != "SeveralLateProducts"]  # it grows without bound


def on(device, rnn, steps, batch, autocast=None):
    """`results`, computed on a device, as float64 on the CPU."""
    rnn = rnn.to(device)
    x = normal(steps, batch, rnn.input_size)
    state = [normal(*s.shape, seed=50 + i) for i, s in enumerate(tensors(rnn.initial_state(batch)))]
    dtype = next(rnn.parameters()).dtype
    given = {"x": x, **{f"s{i}": s for i, s in enumerate(state)}}
    given = {n: t.detach().to(device, dtype).requires_grad_() for n, t in given.items()}
    with torch.autocast("cuda", autocast or torch.bfloat16, enabled=autocast is not None):
        output, final = rnn(given["x"], in_form(tuple(given[f"s{i}"] for i in range(len(state)))))
    exact = output.to("cpu", F64), tuple(each.to("cpu", F64) for each in tensors(final))
    found = everything(*exact, given | dict(rnn.named_parameters()))
    return {name: tensor.to("cpu", F64) for name, tensor in found.items()}


def assert_close_to(got, want):
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-8, atol=1e-9)


@GPU
@pytest.mark.slow
@pytest.mark.parametrize("stack", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize(("cell", "options"), ON_GPU)
def test_gpu_equals_the_loop_in_float64(cell, options, stack):
    """Launch by launch, captured and replayed: chunks of 32, 32, 4 and 2 steps."""
    want = on("cpu", build(cell, engine="loop", **options, **stack), 70, 3)
    rnn = build(cell, engine="compiled", **options, **stack)
    for _ in range(3):
        assert_close_to(on("cuda", rnn, 70, 3), want)


@GPU
@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru", "elman"])
def test_gpu_native_equals_the_loop_in_float64(cell):
    rnn = build(cell, bidirectional=True).to("cuda")
    assert rnn.explain().startswith("native")
    loop_ = build(cell, engine="loop", bidirectional=True)
    assert_close_to(on("cuda", rnn, 40, 3), on("cpu", loop_, 40, 3))


@GPU
@pytest.mark.slow
@pytest.mark.parametrize("cell", ["peephole_lstm", "gru_v1", "layernorm_lstm"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
def test_gpu_is_as_far_from_float64_as_the_loop(cell, autocast):
    def found(engine, device, dtype=torch.float32, autocast=autocast):
        rnn = RNN(cell, 8, 16, engine=engine, dtype=F64)
        shake(rnn)
        return on(device, rnn.to(dtype), 40, 4, autocast)

    exact, loop_ = found("loop", "cpu", F64, None), found("loop", "cuda")
    least = 1e-6 if autocast is None else 1e-3
    for _ in range(3):
        got = found("compiled", "cuda")
        for name, want in exact.items():
            off = [((each[name] - want).norm() / want.norm()).item() for each in (loop_, got)]
            assert off[1] < 2 * off[0] + least, name


@GPU
@pytest.mark.slow
def test_gpu_packed_input_and_sizes_that_come_and_go():
    lengths = torch.tensor([70, 66, 66, 9, 1])
    x = normal(70, 5, 3).detach()
    rnns = [build("peephole_lstm", engine=e, bidirectional=True) for e in ("loop", "compiled")]
    want = rnns[0](pack_padded_sequence(x, lengths))[0].data
    packed = pack_padded_sequence(x.cuda(), lengths)
    for _ in range(3):
        got = rnns[1].cuda()(packed)[0].data
        torch.testing.assert_close(got.cpu(), want, rtol=1e-8, atol=1e-9)


@GPU
@pytest.mark.slow
def test_gpu_streams_inference_and_the_callers_own_graph():
    rnn = build("peephole_lstm", engine="compiled").cuda().requires_grad_(False)
    x = normal(70, 3, 3).detach()
    want = build("peephole_lstm", engine="loop")(x)[0].detach()
    x = x.cuda()
    with torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(rnn(x)[0].cpu(), want, rtol=1e-8, atol=1e-9)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        found = [rnn(x)[0] for _ in range(3)]
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        found.append(rnn(x)[0])
    graph.replay()
    for each in found:
        torch.testing.assert_close(each.cpu(), want, rtol=1e-8, atol=1e-9)


@GPU
@pytest.mark.slow
def test_gpu_second_derivatives():
    def penalty(engine, device):
        rnn = build("peephole_lstm", engine=engine).to(device)
        x = normal(40, 2, 3).detach().to(device).requires_grad_()
        (slope,) = torch.autograd.grad(rnn(x)[0].sum(), x, create_graph=True)
        inputs = {"x": x, **dict(rnn.named_parameters())}
        found = torch.autograd.grad(slope.square().sum(), inputs.values(), materialize_grads=True)
        return {name: found.cpu() for name, found in zip(inputs, found, strict=True)}

    assert_close_to(penalty("compiled", "cuda"), penalty("loop", "cpu"))


@GPU
@pytest.mark.slow
def test_gpu_auto_takes_what_was_measured():
    for cell, engine in {"lstm": "native", "gru": "native", "peephole_lstm": "loop"}.items():
        rnn = build(cell).cuda()
        assert rnn.settle_engine() == []
        assert rnn.engine == engine
