"""Compiled steps on CUDA: a step is compiled, and chunks of steps are captured as CUDA graphs.

A step is two or three kernels, each shorter than its own launch. A CUDA graph launches all kernels
of a chunk at once. It reads and writes memory of its own: inputs are copied in, outputs out.

Not measured, and not run: no GPU was available. On a CPU the compiled step, the chunks and the
copies were tested, with a stand-in for the capture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellzoo.engines.compiled.cuda.traced import Call, OverTime, StepFn, loop, trace_step
from cellzoo.engines.compiled.groups import Tensors, grouped
from cellzoo.engines.errors import CompileError, in_one_line

COMPILE = True  # tests also run the steps as plain functions
CHUNK = 32  # steps of the longest chunk; a power of two
GRAPHS = 64  # graphs that each driver keeps

Function = Callable[[list[Tensor]], list[Tensor]]


class Chunked(OverTime):
    """A cell's steps by chunks."""

    def make(self, call: Call) -> Chunks:
        """Return the chunks of a step, compiled for all batch and hidden sizes."""
        if not COMPILE:
            return Chunks()
        traced = trace_step(call, tracing_mode="symbolic")
        compiled: Any = torch.compile(traced.graph, dynamic=True, fullgraph=True)
        number = traced.sizes[0]

        def step(carry: Any, now: Any, shared: Any) -> Any:
            try:
                results = compiled(*carry, *now, *shared)  # compiled at the first call
            except torch._dynamo.exc.TorchDynamoException as error:
                inner = getattr(error, "inner_exception", error)  # the compiler's own error
                raise CompileError(in_one_line(inner)) from error
            return results[:number], results[number:]

        return Chunks(step)


class Chunks:
    """`loop` by chunks of steps, each captured at its second run.

    At its first run a chunk is launched kernel by kernel: a chunk that occurs once, such as one of
    a packed batch, is not worth a capture.

    Args:
        step: a compiled function to run in place of the step of each call; None: run that step.
    """

    def __init__(self, step: StepFn | None = None) -> None:
        self._step = step
        self._graphs: OrderedDict[Any, Graph | None] = OrderedDict()
        self._lock = Lock()  # a graph's memory serves one call at a time

    def __call__(
        self,
        step: StepFn,
        carry: Tensors,
        inputs: Tensors,
        shared: Tensors,
        backwards: bool = False,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run a step over time; arguments and result as for `traced.loop`."""
        step = self._step or step
        sizes = len(carry), len(inputs), len(shared)

        def chunk(flat: list[Tensor]) -> list[Tensor]:
            carry, inputs, shared = grouped(flat, *sizes)
            new, outputs = loop(step, carry, inputs, shared, backwards)
            # Clones, because the next chunk's inputs must not lie in the memory that it copies to.
            return [*(tensor.clone() for tensor in new), *outputs]

        pieces = spans(len(inputs[0]))
        over_time: list[Tensor] = []
        # A graph's memory outlives the call, so it must not be inference mode's.
        with self._lock, torch.inference_mode(False), torch.no_grad():
            now, inputs, shared = ([t.detach() for t in group] for group in (carry, inputs, shared))
            for start, stop in reversed(pieces) if backwards else pieces:
                piece = [tensor[start:stop] for tensor in inputs]
                results = self._run(chunk, [*now, *piece, *shared])
                now, outputs = results[: sizes[0]], results[sizes[0] :]
                steps = pieces[-1][1]
                over_time = over_time or [o.new_empty(steps, *o.shape[1:]) for o in outputs]
                torch._foreach_copy_([whole[start:stop] for whole in over_time], outputs)
            return [tensor.clone() for tensor in now], over_time

    def _run(self, chunk: Function, flat: list[Tensor]) -> list[Tensor]:
        """Run a chunk, by its graph if it has one; the next chunk overwrites the results."""
        if flat[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return chunk(flat)  # it becomes part of the caller's graph
        key = signature(flat)
        if key not in self._graphs:
            self._graphs[key] = None
            if len(self._graphs) > GRAPHS:
                _, unused = self._graphs.popitem(last=False)
                if unused is not None and flat[0].is_cuda:
                    torch.cuda.synchronize(flat[0].device)  # it may still be running
            return chunk(flat)
        self._graphs.move_to_end(key)
        graph = self._graphs[key]
        if graph is None:
            graph = self._graphs[key] = capture(chunk, flat)
        return graph(flat)


def spans(length: int) -> list[tuple[int, int]]:
    """Return the chunks of a sequence, (start, stop): the longest that fit, then powers of two.

    A few chunk lengths, with a graph each, serve sequences of every length.
    """
    chunks, start = [], 0
    while start < length:
        size = min(CHUNK, 1 << ((length - start).bit_length() - 1))
        chunks.append((start, start + size))
        start += size
    return chunks


def signature(flat: Sequence[Tensor]) -> Any:
    """Return the key of a graph: shapes, dtypes, the stream, and the rounding of products."""
    device = flat[0].device
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    matmul = torch.backends.cuda.matmul
    rounding = (
        matmul.fp32_precision,
        matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_reduced_precision_reduction,
    )
    return tuple((tensor.shape, tensor.dtype) for tensor in flat), device, stream, rounding


class Graph(NamedTuple):
    """A captured function.

    Attributes:
        inputs: the memory that the graph reads.
        outputs: the memory that the graph writes.
        replay: runs the graph.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    replay: Callable[[], object]

    def __call__(self, flat: list[Tensor]) -> list[Tensor]:
        """Run the graph on these tensors; the next call overwrites the results."""
        torch._foreach_copy_(self.inputs, flat)
        self.replay()
        return self.outputs


def capture(function: Function, flat: list[Tensor]) -> Graph:
    """Capture a function of tensors like these as a CUDA graph. Only this part needs a GPU.

    Raises:
        CompileError: a CUDA graph cannot hold the function.
    """
    device = flat[0].device
    inputs = [tensor.clone(memory_format=torch.contiguous_format) for tensor in flat]
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # torch's own stream for captures is of one device
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.device(device):
        with torch.cuda.stream(stream):  # the set-up of a first call must not be captured
            function(inputs)
        try:
            # thread_local, so that other threads, such as data loaders, may continue.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                outputs = function(inputs)
        except RuntimeError as error:
            raise CompileError(f"no CUDA graph of its steps: {in_one_line(error)}") from error
    return Graph(inputs, outputs, graph.replay)
