"""Any cell at fused speed: its steps compiled into one loop over time, forward and backward.

The input projection is one product before the loop; the steps of the loop are compiled from the
author's update; each weight's gradient is one product after the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cellzoo.cells.base import GatedCell
from cellzoo.engines.compiled.chunks import Chunked
from cellzoo.engines.compiled.lengths import Lengths
from cellzoo.engines.compiled.products import FasterLinear
from cellzoo.engines.compiled.programs import Programs, programs_of
from cellzoo.engines.compiled.steps import autocast_to, grouped
from cellzoo.engines.compiled.traced import has_triton
from cellzoo.engines.errors import CompileError
from cellzoo.engines.packing import States, run_directions, run_one_direction

#: What runs a cell's steps, by the type of device.
PROGRAMS: dict[str, type[Programs]] = {"cpu": Programs, "cuda": Chunked}


def declines(
    layer: Sequence[GatedCell], x: Tensor, batch_sizes: Tensor | None, dt: Tensor | None
) -> str | None:
    """Why this cannot be compiled; None if it can."""
    cell = layer[0]
    dtype, device = cell._like.dtype, cell._like.device.type
    if device not in PROGRAMS:
        return f"not written for {device}"
    cast = autocast_to(cell._like.device)
    if cast not in (None, torch.float32, torch.bfloat16):
        return f"not proved for autocast to {cast}"
    if device == "cuda" and not has_triton():
        return "triton, by which torch compiles for CUDA, is not installed"
    if dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f"not proved for {dtype}"
    return untraceable(cell)


def untraceable(cell: GatedCell) -> str | None:
    """Why a cell's steps cannot be traced, here and now; None if they can."""
    dtype = cell._like.dtype
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
    make = PROGRAMS[layer[0]._like.device.type]
    run = partial(run_direction, make, x, batch_sizes, dt, checkpoint_steps)
    return run_directions(layer, states, run)


def run_direction(
    make: type[Programs],
    x: Tensor,
    batch_sizes: Tensor | None,
    dt: Tensor | None,
    checkpoint_steps: int | None,
    cell: GatedCell,
    initial: States,
    reverse: bool,
) -> tuple[Tensor, States]:
    """One direction by `make`.

    Packed input is one call; where `make` takes sequences of one length only, or states are to be
    computed again, as runs of equal batch size.
    """
    cell = cell.prepare()
    made = programs_of(cell, make)
    if made.steps.projection and dt is None:
        sequences = [x]
        projection = [getattr(cell, name) for name in made.steps.projection]
    else:
        with FasterLinear():
            projected = cell.project_sequence(x, dt)
        if tuple(projected) != made.steps.projected:
            raise CompileError(f"{cell.name}.project gave {list(projected)}, and first others")
        # Pre-activations are of the states' type; under autocast a projection may not be.
        dtype = cell._like.dtype
        sequences, projection = [each.to(dtype) for each in projected.values()], []
    constants = [projection, *made.steps.inputs_of(cell)]
    run = partial(_run_rows, made, constants, reverse)
    if batch_sizes is not None and made.PACKED and checkpoint_steps is None:
        return run(Lengths(batch_sizes.tolist()), sequences, initial)
    dense = partial(_run_dense, run)
    return run_one_direction(dense, sequences, initial, batch_sizes, reverse, checkpoint_steps)


def _run_dense(
    run: Callable[[Lengths, list[Tensor], States], tuple[Tensor, States]],
    sequences: Sequence[Tensor],
    initial: States,
) -> tuple[Tensor, States]:
    steps, batch = sequences[0].shape[:2]
    rows = [tensor.flatten(0, 1) for tensor in sequences]
    output, final = run(Lengths([batch] * steps), rows, initial)
    return output.view(steps, batch, *output.shape[1:]), final


def _run_rows(
    made: Programs,
    constants: list[list[Tensor]],
    reverse: bool,
    lengths: Lengths,
    sequences: list[Tensor],
    initial: States,
) -> tuple[Tensor, States]:
    """One direction of sequences of these lengths, (rows, …) each."""
    groups = [[*map(lengths.turned, sequences)] if reverse else sequences, initial, *constants]
    sizes = [len(group) for group in groups]
    tensors = [tensor.contiguous() for group in groups for tensor in group]
    with _without_autocast(initial[0]):
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            made.begin(groups)
        output, *final = _Sequence.apply(made, lengths, sizes, *tensors)
    return lengths.turned(output) if reverse else output, tuple(final)


def _without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Steps cast themselves what is cast."""
    on = autocast_to(tensor.device) is not None
    return torch.autocast(tensor.device.type, enabled=False) if on else nullcontext()


class _Sequence(torch.autograd.Function):
    """A whole sequence: keeps the states and the pre-activations, no more.

    The backward pass overwrites the pre-activations, when nobody needs them again.

    Its tensors are x or what is projected, (rows, …) each; the initial states; weight_ih and
    bias_ih where it makes the projection; the weights and biases of the products; extras.
    """

    @staticmethod
    def forward(
        ctx: Any, made: Programs, lengths: Lengths, sizes: list[int], *tensors: Tensor
    ) -> Any:
        sequences, initial, projection, *others = grouped(tensors, *sizes)
        final, output, states, early, projected = made.forward(
            lengths, sequences, projection, initial, *others
        )
        ctx.made, ctx.lengths = made, lengths
        ctx.sizes = [*sizes, len(projected), len(states), len(early)]
        ctx.save_for_backward(*tensors, *projected, *states, *early)
        return output, *final

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        groups = grouped(ctx.saved_tensors, *ctx.sizes)
        wanted = ctx.needs_input_grad[3:]
        with _without_autocast(gradients[0]):
            if torch.is_grad_enabled():  # create_graph: second derivatives go through the loop
                return None, None, None, *_replay(ctx.made, ctx.lengths, groups[:6], gradients)
            output, *final = (gradient.contiguous() for gradient in gradients)
            again = torch._C._autograd._get_current_graph_task_keep_graph()
            found = ctx.made.backward(
                ctx.lengths, *groups, output, final, of_x=wanted[0], again=again
            )
        each = zip(found, wanted, strict=True)
        return None, None, None, *(gradient if want else None for gradient, want in each)


def _replay(
    made: Programs, lengths: Lengths, groups: list[list[Tensor]], gradients: Any
) -> list[Tensor | None]:
    """The gradients by the plain loop, themselves with a graph."""
    # Views: a tensor that comes twice would get its whole gradient twice.
    groups = [[tensor.view_as(tensor) for tensor in group] for group in groups]
    sequences, initial, projection, *others = groups
    projected = [functional.linear(*sequences, *projection)] if projection else sequences
    found = made.steps.forward(lengths, projected, initial, *others)
    inputs = [tensor for group in groups for tensor in group]
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    number = made.steps.states
    slopes = torch.autograd.grad(
        [found[number], *found[:number]], wanted, gradients, create_graph=True,
        allow_unused=True,
    )  # fmt: skip
    left = iter(slopes)
    return [next(left) if tensor.requires_grad else None for tensor in inputs]
