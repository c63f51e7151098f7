"""The kernels of a cell's steps: their source, their loading by Triton and their launch."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from cellzoo.engines.compiled.cpu import cache
from cellzoo.engines.compiled.cuda.traced import Call, OverTime, StepFn, trace_step
from cellzoo.engines.compiled.groups import Tensors
from cellzoo.engines.compiled.steps import Steps
from cellzoo.engines.persistent.operations import UnsupportedError
from cellzoo.engines.persistent.source import Source, Writer
from cellzoo.system.files import write_whole

BLOCK = 16  # sequences of a program: the fewest for a product
WARPS, STAGES = 8, 2  # threads of a program by 32; steps with inputs in flight


class Kernels(OverTime):
    """A cell's steps as one kernel forward and one backward; not measured."""

    def make(self, call: Call) -> Kernel:
        """Return the kernel of a call's step."""
        return Kernel(source(call))


def source(call: Call) -> Source:
    """Return the source of the kernel of a call's step.

    Raises:
        UnsupportedError: a kernel does not support the step.
    """
    from torch._decomp import core_aten_decompositions

    kept = torch.ops.aten.native_layer_norm.default
    table = {op: parts for op, parts in core_aten_decompositions().items() if op is not kept}
    traced = trace_step(call, table)
    cell = call.steps.cell
    title = f"{cell.name}_{call.name}" if cell.name.isidentifier() else call.name
    return Writer(traced, cell.hidden_size, title, names(call.steps, call.name)).source()


def names(steps: Steps, name: str) -> list[str]:
    """Return names for the carried tensors of a step, its inputs and the shared tensors."""
    states = list(steps.cell.layout.states)
    projected = ["x" if part == "all" else f"x_{part}" for part in steps.projected]
    products = ["_".join(gates) for gates in [*steps.early, *steps.late]]
    weights = [f"u_{product}" for product in products]
    biases = [f"b_{product}" for product in products if product not in steps.cell._matrices]
    biases = biases if steps.cell.bias_hh is not None else []
    if name == "forward":
        return [*states, *projected, *weights, *biases, *steps.extras]
    return [
        *(f"of_{state}" for state in states),
        *(f"of_{extra}" for extra in steps.extras),
        *(projected[place] for place in steps.kept),
        *states,
        *(f"a_{product}" for product in products[: len(steps.early)]),
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
        # Triton reads the source of a function from its file. It runs the text from here.
        exec(compile(source.text, str(self.path), "exec"), module)
        self._function = module[source.name]

    def __call__(
        self,
        step: StepFn,
        carry: Tensors,
        inputs: Tensors,
        shared: Tensors,
        backwards: bool = False,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run the steps over time; arguments as for `traced.loop`; `step` is not used."""
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
        tensors = [
            *(carry[n] for n in source.starts),
            *(inputs[n] for n in source.inputs),
            *(shared[n] for n in source.shared),
        ]
        rounding = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
        arguments = [*(t.contiguous() for t in tensors), *ends, *outputs, length, batch]
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
