"""Kernels of a cell's steps: written, loaded by Triton and launched."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from cellzoo.engines.compiled import cache
from cellzoo.engines.compiled.steps import Steps, Tensors
from cellzoo.engines.compiled.traced import Call, OverTime, Step, trace_step
from cellzoo.engines.persistent.operations import UnsupportedError
from cellzoo.engines.persistent.source import Source, Writer
from cellzoo.system.files import write_whole

BLOCK = 16  # sequences of a program: the fewest that a product takes
WARPS, STAGES = 8, 2  # threads of a program by 32; steps whose inputs are loaded at once


class Kernels(OverTime):
    """A cell's steps as a kernel forward and one backward; not measured."""

    def make(self, call: Call) -> Kernel:
        """The kernel of the call's step."""
        return Kernel(source(call))


def source(call: Call) -> Source:
    """The source of the kernel of a call's step.

    Raises:
        UnsupportedError: the step does what no kernel has.
    """
    from torch._decomp import core_aten_decompositions

    kept = torch.ops.aten.native_layer_norm.default
    table = {op: made for op, made in core_aten_decompositions().items() if op is not kept}
    traced = trace_step(call, table)
    cell = call.steps.cell
    title = f"{cell.name}_{call.name}" if cell.name.isidentifier() else call.name
    return Writer(traced, cell.hidden_size, title, names(call.steps, call.name)).source()


def names(steps: Steps, name: str) -> list[str]:
    """What to call the tensors of a step: what is carried, its inputs, what all steps share."""
    states = list(steps.cell.layout.states)
    projected = ["x" if each == "all" else f"x_{each}" for each in steps.projected]
    products = ["_".join(each) for each in [*steps.early, *steps.late]]
    weights = [f"u_{each}" for each in products]
    biases = [f"b_{each}" for each in products if each not in steps.cell._matrices]
    biases = biases if steps.cell.bias_hh is not None else []
    if name == "forward":
        return [*states, *projected, *weights, *biases, *steps.extras]
    return [
        *(f"of_{state}" for state in states),
        *(f"of_{extra}" for extra in steps.extras),
        *(projected[place] for place in steps.kept),
        *states,
        *(f"a_{each}" for each in products[: len(steps.early)]),
        "of_output",
        *weights,
        *biases,
        *steps.extras,
    ]


class Kernel:
    """A step over time as one kernel."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.path = cache.folder() / f"{source.name}-{_hash(source.text)}.py"
        write_whole(self.path, lambda target: target.write_text(source.text))
        module: dict[str, Any] = {"__name__": self.path.stem}
        # Triton reads a function's source from its file; what runs is the text that was made here.
        exec(compile(source.text, str(self.path), "exec"), module)
        self._function = module[source.name]

    def __call__(
        self, step: Step, carry: Tensors, inputs: Tensors, shared: Tensors, backwards: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run the steps over time; arguments and result as `traced.loop`, `step` unread."""
        source = self.source
        length, batch = inputs[0].shape[:2]
        programs = -(-batch // BLOCK)
        ends = [
            start.new_empty(programs, *start.shape)
            if n in source.totals
            else torch.empty_like(start)
            for n, start in enumerate(carry)
        ]
        outputs = [
            inputs[0].new_empty(length, batch, width, dtype=dtype)
            for width, dtype in source.outputs
        ]
        given = [
            *(carry[n] for n in source.starts),
            *(inputs[n] for n in source.inputs),
            *(shared[n] for n in source.shared),
        ]
        rounding = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
        arguments = [*(t.contiguous() for t in given), *ends, *outputs, length, batch]
        with torch.cuda.device(inputs[0].device) if inputs[0].is_cuda else nullcontext():
            self._launch(programs, *arguments, BLOCK, rounding)
        new = [
            start + end.sum(0) if n in source.totals else end
            for n, (start, end) in enumerate(zip(carry, ends, strict=True))
        ]
        return new, outputs

    def _launch(self, programs: int, *arguments: Any) -> None:
        from triton.runtime.errors import OutOfResources

        try:
            self._function[(programs,)](*arguments, num_warps=WARPS, num_stages=STAGES)
        except OutOfResources as error:
            raise UnsupportedError(f"{self.source.name} does not fit on chip: {error}") from None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
