"""Any cell at fused speed: its steps compiled into one loop over time, forward and backward.

The input projection is one product before the loop; the loop is compiled from the author's
update; each weight's gradient is one product after the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cellzoo.cells.base import GatedCell
from cellzoo.engines.compiled.programs import Programs, programs_of
from cellzoo.engines.compiled.steps import grouped, loop
from cellzoo.engines.packing import States, checkpointed, run_directions, run_segments


def declines(
    layer: Sequence[GatedCell], x: Tensor, batch_sizes: Tensor | None, dt: Tensor | None
) -> str | None:
    """Why this cannot be compiled; None if it can."""
    cell = layer[0]
    dtype, device = cell._like.dtype, cell._like.device.type
    if device != "cpu":
        return f"not measured on {device} yet"
    if dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f"not proved for {dtype}"
    if torch._C._functorch.maybe_current_level() is not None:
        return "torch.func's transforms do not see through compiled code"
    if torch.compiler.is_compiling():
        return "torch.compile and torch.export trace the loop themselves"
    odd = [n for n, s in cell.layout.states.items() if s.dtype not in (None, dtype)]
    if odd:
        return f"state {odd[0]} is not {dtype}"
    return None


def run(
    layer: Sequence[GatedCell],
    x: Tensor,
    states: Sequence[States],
    batch_sizes: Tensor | None = None,
    dt: Tensor | None = None,
    checkpoint_steps: int | None = None,
) -> tuple[Tensor, list[States]]:
    """Run one layer through time; arguments and result as `loop.run`.

    Raises:
        CompileError: the cell cannot be traced or compiled.
    """
    run = partial(_run_direction, x, batch_sizes, dt, checkpoint_steps)
    return run_directions(layer, states, run)


def _run_direction(
    x: Tensor,
    batch_sizes: Tensor | None,
    dt: Tensor | None,
    checkpoint_steps: int | None,
    cell: GatedCell,
    initial: States,
    reverse: bool,
) -> tuple[Tensor, States]:
    """One direction: packed input as runs of equal batch size."""
    cell = cell.prepare()
    projected = cell.project_sequence(x, dt)
    made = programs_of(cell, tuple(projected))
    dense = checkpointed(
        partial(_run_dense, made, made.steps.inputs_of(cell), reverse), checkpoint_steps, reverse
    )
    if batch_sizes is None:
        return dense(list(projected.values()), initial)
    return run_segments(list(projected.values()), initial, batch_sizes, reverse, dense)


def _run_dense(
    made: Programs,
    constants: list[list[Tensor]],
    reverse: bool,
    projected: Sequence[Tensor],
    initial: States,
) -> tuple[Tensor, States]:
    groups = [[t.flip(0) for t in projected] if reverse else projected, initial, *constants]
    call = _Call(made, [len(group) for group in groups])
    if made.steps.summed and torch.is_grad_enabled():
        call.mark = _Mark.apply(call.gradients, groups[0][made.steps.projected.index("all")])
    with torch.autocast(initial[0].device.type, enabled=False):  # the steps cast what is cast
        output, *final = _Sequence.apply(call, *(t for group in groups for t in group))
    return output.flip(0) if reverse else output, tuple(final)


@dataclass
class _Call:
    """What a call of `_Sequence` knows beside its tensors.

    Attributes:
        sizes: of the groups of its inputs.
        mark, gradients: see `_Mark`.
    """

    made: Programs
    sizes: list[int]
    mark: Tensor | None = None
    gradients: list[Tensor] = field(default_factory=list)


class _Sequence(torch.autograd.Function):
    """A whole sequence: keeps the states before each step and the pre-activations, no more."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> Any:
        tensors = tuple(tensor.contiguous() for tensor in tensors)
        steps = call.made.steps
        projected, *groups = grouped(tensors, *call.sizes)
        found = call.made.forward(projected, *groups)
        number = steps.states
        final, kept, output = found[:number], found[number:], found[2 * number]
        del kept[number]
        ctx.call = call
        given = [projected[place] for place in steps.kept]
        ctx.save_for_backward(*given, *(t for group in groups for t in group), *kept)
        return output, *final

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        made = ctx.call.made
        steps, number = made.steps, made.steps.states
        sizes = [len(steps.kept), *ctx.call.sizes[1:]]
        given, initial, weights, biases, extras, before, early = grouped(
            ctx.saved_tensors, *sizes, number, len(steps.early)
        )
        if torch.is_grad_enabled():  # create_graph: a second derivative goes through the loop
            groups = [initial, weights, biases, extras]
            return None, *_replay(ctx.call, given, groups, before, early, gradients)
        output, *final = (gradient.contiguous() for gradient in gradients)
        found = made.backward(given, before, early, [output], final, weights, biases, extras)
        late = len(steps.late)
        first, of_extras, of_projected, of_products, operands = grouped(
            found, number, len(extras), len(steps.projected), len(early) + late, late
        )
        operands = [*(steps.operand(names, before) for names in steps.early), *operands]
        of_weights, of_biases = steps.after_the_loop(weights, biases, operands, of_products)
        every = [*of_projected, *first, *of_weights, *of_biases, *of_extras]
        wanted = ctx.needs_input_grad[1:]
        return None, *(g if want else None for g, want in zip(every, wanted, strict=True))


def _replay(
    call: _Call, given: Any, groups: Any, before: Any, early: Any, gradients: Any
) -> list[Tensor | None]:
    """The gradients by the plain loop, themselves with a graph."""
    steps, (_, weights, biases, _) = call.made.steps, groups
    projected = list(given)
    if steps.summed:
        with torch.no_grad():
            values = steps.projection_of(early[0], before, weights[0], biases)
        again = _Again.apply(call.gradients, call.mark, values)
        projected.insert(steps.projected.index("all"), again)
    inputs = [*projected, *(tensor for group in groups for tensor in group)]
    found = steps.forward(loop, projected, *groups)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    slopes = torch.autograd.grad(
        [found[2 * steps.states], *found[: steps.states]], wanted, gradients, create_graph=True,
        allow_unused=True,
    )  # fmt: skip
    left = iter(slopes)
    return [next(left) if tensor.requires_grad else None for tensor in inputs]


class _Mark(torch.autograd.Function):
    """An empty tensor that stands for another in the graph, so that this need not be kept.

    `_Again` has the values back, computed anew; their gradient goes on from here.
    """

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], tensor: Tensor) -> Tensor:
        ctx.gradients = gradients
        return tensor.new_empty(0)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        total = torch.stack(ctx.gradients).sum(0)
        ctx.gradients.clear()
        return None, total


class _Again(torch.autograd.Function):
    """Values that were not kept, with the history of a mark."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], mark: Tensor, values: Tensor) -> Tensor:
        ctx.gradients = gradients
        ctx.save_for_backward(mark)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.gradients.append(gradient)
        return None, torch.zeros_like(ctx.saved_tensors[0]), None
