"""Compiled steps on CUDA: a step is compiled, and chunks of steps are captured as CUDA graphs.

A step is two or three kernels, each shorter than its own launch. A CUDA graph launches all those
of a chunk at once. It reads and writes memory of its own, so that a chunk's inputs are copied in
and its outputs out.

Not measured, and not run: there was no GPU at hand. What a CPU can do was tested: the compiled
step, the chunks, and that what is copied suffices, with a stand-in for the capture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from cellzoo.engines.compiled.steps import Tensors, grouped
from cellzoo.engines.compiled.traced import Call, OverTime, Step, loop, trace_step
from cellzoo.engines.errors import CompileError, in_one_line

COMPILE = True  # tests also run the steps as they are
CHUNK = 32  # steps of the longest chunk; a power of two
GRAPHS = 64  # graphs that are kept for a direction of a cell

Function = Callable[[list[Tensor]], list[Tensor]]


class Chunked(OverTime):
    """A cell's steps by chunks; what `programs.Programs` is on the CPU."""

    def make(self, call: Call) -> Chunks:
        """The step's chunks, the step compiled for all batch and hidden sizes."""
        if not COMPILE:
            return Chunks()
        traced = trace_step(call, tracing_mode="symbolic")
        compiled: Any = torch.compile(traced.graph, dynamic=True, fullgraph=True)
        number = traced.sizes[0]

        def step(carry: Any, now: Any, shared: Any) -> Any:
            try:
                found = compiled(*carry, *now, *shared)  # compiled at the first call
            except torch._dynamo.exc.TorchDynamoException as error:
                inner = getattr(error, "inner_exception", error)  # the compiler's own
                raise CompileError(in_one_line(inner)) from error
            return found[:number], found[number:]

        return Chunks(step)


class Chunks:
    """`loop` by chunks of steps, each captured when it is met for the second time.

    The first time a chunk runs launch by launch: what comes once, as a packed batch's sizes may,
    is not worth a capture.

    Args:
        step: what does the same as the steps that it is called with, and is compiled; None: those.
    """

    def __init__(self, step: Step | None = None) -> None:
        self._step = step
        self._graphs: OrderedDict[Any, Graph | None] = OrderedDict()
        self._lock = Lock()  # a graph's memory serves one call at a time

    def __call__(
        self, step: Step, carry: Tensors, inputs: Tensors, shared: Tensors, backwards: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run a step over time; arguments and result as `traced.loop`."""
        step = self._step or step
        sizes = len(carry), len(inputs), len(shared)

        def chunk(flat: list[Tensor]) -> list[Tensor]:
            carry, inputs, shared = grouped(flat, *sizes)
            new, outputs = loop(step, carry, inputs, shared, backwards)
            # Clones: what the next chunk is handed must not be the memory that it is handed in.
            return [*(tensor.clone() for tensor in new), *outputs]

        pieces = spans(len(inputs[0]))
        found: list[Tensor] = []
        # A graph's memory outlives the call, so it must not be inference mode's.
        with self._lock, torch.inference_mode(False), torch.no_grad():
            now, inputs, shared = ([t.detach() for t in each] for each in (carry, inputs, shared))
            for start, stop in reversed(pieces) if backwards else pieces:
                piece = [tensor[start:stop] for tensor in inputs]
                results = self._run(chunk, [*now, *piece, *shared])
                now, outputs = results[: sizes[0]], results[sizes[0] :]
                found = found or [o.new_empty(pieces[-1][1], *o.shape[1:]) for o in outputs]
                torch._foreach_copy_([whole[start:stop] for whole in found], outputs)
            return [tensor.clone() for tensor in now], found

    def _run(self, chunk: Function, flat: list[Tensor]) -> list[Tensor]:
        """A chunk by its graph, if there is one; its results last until the next chunk."""
        if flat[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return chunk(flat)  # all of it becomes part of a graph of the caller's
        key = signature(flat)
        if key not in self._graphs:
            self._graphs[key] = None
            if len(self._graphs) > GRAPHS:
                _, unused = self._graphs.popitem(last=False)
                if unused is not None and flat[0].is_cuda:
                    torch.cuda.synchronize(flat[0].device)  # it may be running yet
            return chunk(flat)
        self._graphs.move_to_end(key)
        graph = self._graphs[key]
        if graph is None:
            graph = self._graphs[key] = capture(chunk, flat)
        return graph(flat)


def spans(length: int) -> list[tuple[int, int]]:
    """The chunks of so many steps, (start, stop): the longest that fit, then powers of two.

    So a few lengths, and as many graphs, serve sequences of every length.
    """
    found, start = [], 0
    while start < length:
        size = min(CHUNK, 1 << ((length - start).bit_length() - 1))
        found.append((start, start + size))
        start += size
    return found


def signature(flat: Sequence[Tensor]) -> Any:
    """What a graph is captured for: shapes, dtypes, the stream, and how products are rounded."""
    device = flat[0].device
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    matmul = torch.backends.cuda.matmul
    rounding = (
        matmul.fp32_precision,
        matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_reduced_precision_reduction,
    )
    return tuple((tensor.shape, tensor.dtype) for tensor in flat), device, stream, rounding


class Graph:
    """A captured function.

    Args:
        inputs: the memory that it reads.
        outputs: the memory that it writes.
        replay: runs it again.
    """

    def __init__(
        self, inputs: list[Tensor], outputs: list[Tensor], replay: Callable[[], object]
    ) -> None:
        self._inputs = inputs
        self._outputs = outputs
        self._replay = replay

    def __call__(self, flat: list[Tensor]) -> list[Tensor]:
        """Run it on these tensors; the results are overwritten by the next call."""
        torch._foreach_copy_(self._inputs, flat)
        self._replay()
        return self._outputs


def capture(function: Function, flat: list[Tensor]) -> Graph:
    """Capture a function of tensors like these as a CUDA graph: the part that only a GPU can run.

    Raises:
        CompileError: it does what a graph cannot hold.
    """
    device = flat[0].device
    inputs = [tensor.clone(memory_format=torch.contiguous_format) for tensor in flat]
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # torch's own for captures is of one device
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.device(device):
        with torch.cuda.stream(stream):  # what is made at a first call must not be captured
            function(inputs)
        try:
            # thread_local: other threads, as those that load data, may go on meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                outputs = function(inputs)
        except RuntimeError as error:
            raise CompileError(f"no CUDA graph of its steps: {in_one_line(error)}") from error
    return Graph(inputs, outputs, graph.replay)
