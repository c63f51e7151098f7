"""Any cell at the speed of a fused kernel: its steps compiled into one loop over time.

The input projection is one product before the loop. The steps of the loop are compiled from the
author's update, forward and backward. The gradient of each weight is one product after the loop.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cellzoo.cells.base import GatedCell
from cellzoo.cells.prepared import PreparedCell
from cellzoo.engines.compiled.cpu import inductor
from cellzoo.engines.compiled.cpu.products import FasterLinear
from cellzoo.engines.compiled.cpu.programs import CPUPrograms
from cellzoo.engines.compiled.cuda.chunks import Chunked
from cellzoo.engines.compiled.cuda.traced import has_triton
from cellzoo.engines.compiled.groups import Inputs, Saved, Tensors, grouped
from cellzoo.engines.compiled.lengths import Lengths
from cellzoo.engines.compiled.precision import autocast_to
from cellzoo.engines.compiled.programs import Programs, programs_of
from cellzoo.engines.errors import CompileError
from cellzoo.engines.packing import Layer, States, run_directions, run_one_direction
from cellzoo.engines.private import is_dispatched, is_transformed, keeps_graph

#: The programs that run a cell's steps, by the type of device.
PROGRAMS: dict[str, type[Programs]] = {"cpu": CPUPrograms, "cuda": Chunked}


def declines(layer: Layer) -> str | None:
    """Return the reason why this cannot be compiled; None if it can."""
    cell = layer.cells[0]
    dtype, device = cell._like.dtype, cell._like.device.type
    if device not in PROGRAMS:
        return f"not written for {device}"
    cast = autocast_to(cell._like.device)
    if cast not in (None, torch.float32, torch.bfloat16):
        return f"not tested under autocast to {cast}"
    if device == "cpu" and (reason := inductor.declines()):
        return reason
    if device == "cuda" and not has_triton():
        return "triton, by which torch compiles for CUDA, is not installed"
    if dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f"not tested with {dtype}"
    return untraceable(cell)


def untraceable(cell: GatedCell) -> str | None:
    """Return the reason why a cell's steps cannot be traced in this context; None if they can."""
    dtype = cell._like.dtype
    if is_transformed():
        return "torch.func's transforms do not reach into compiled code"
    if is_dispatched():
        return "a dispatch mode does not see the operations of compiled code"
    if torch.compiler.is_compiling():
        return "torch.compile and torch.export trace the loop themselves"
    odd = [n for n, s in cell.layout.states.items() if s.dtype not in (None, dtype)]
    if odd:
        return f"state {odd[0]} is not {dtype}"
    return None


def run(
    layer: Layer, states: Sequence[States], checkpoint_steps: int | None = None
) -> tuple[Tensor, list[States]]:
    """Run one layer over time; arguments and result as for `loop.run`.

    Raises:
        CompileError: the cell cannot be traced or compiled.
    """
    kind = PROGRAMS[layer.cells[0]._like.device.type]
    run = partial(run_direction, kind, layer, checkpoint_steps)
    return run_directions(layer, states, run)


def run_direction(
    kind: type[Programs],
    layer: Layer,
    checkpoint_steps: int | None,
    cell: GatedCell,
    initial: States,
    reverse: bool,
) -> tuple[Tensor, States]:
    """Run one direction by programs of some kind.

    Packed input is one call. It is one call for each segment of equal batch size if the programs
    take sequences of one length only, or if states are to be recomputed.
    """
    prepared = PreparedCell(cell)
    programs = programs_of(prepared, kind)
    if programs.steps.projection and layer.dt is None:
        sequences = [layer.x]
        projection = [getattr(cell, name) for name in programs.steps.projection]
    else:
        with FasterLinear():
            projected = prepared.cell.project_sequence(layer.x, layer.dt)
        if tuple(projected) != programs.steps.projected:
            raise CompileError(
                f"{cell.name}.project returned {list(projected)}, after "
                f"{list(programs.steps.projected)} in its first call"
            )
        # Pre-activations have the dtype of the states; under autocast a projection may not.
        dtype = cell._like.dtype
        sequences, projection = [tensor.to(dtype) for tensor in projected.values()], []
    constants = [projection, *programs.steps.parameters_of(prepared)]
    run = partial(_run_rows, programs, constants, reverse)
    batch_sizes = layer.batch_sizes
    if batch_sizes is not None and programs.PACKED and checkpoint_steps is None:
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
    programs: Programs,
    constants: Sequence[Tensors],
    reverse: bool,
    lengths: Lengths,
    sequences: list[Tensor],
    initial: States,
) -> tuple[Tensor, States]:
    """Run one direction of sequences of these lengths, (rows, …) each."""
    rows = [*map(lengths.turned, sequences)] if reverse else sequences
    inputs = Inputs(rows, initial, *constants)
    tensors = [tensor.contiguous() for group in inputs for tensor in group]
    with _without_autocast(initial[0]):
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            programs.begin(inputs)
        sizes = [len(group) for group in inputs]
        output, *final = _Sequence.apply(programs, lengths, sizes, *tensors)
    return lengths.turned(output) if reverse else output, tuple(final)


def _without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Disable autocast: steps cast their operands themselves."""
    enabled = autocast_to(tensor.device) is not None
    return torch.autocast(tensor.device.type, enabled=False) if enabled else nullcontext()


class _Sequence(torch.autograd.Function):
    """A whole sequence. It saves the states and the pre-activations, no more.

    The backward pass overwrites the pre-activations unless the graph is kept. The tensors are
    those of `Inputs`, one after the other.
    """

    @staticmethod
    def forward(
        ctx: Any, programs: Programs, lengths: Lengths, sizes: list[int], *tensors: Tensor
    ) -> Any:
        final, output, saved = programs.forward(lengths, Inputs(*grouped(tensors, *sizes)))
        ctx.programs, ctx.lengths = programs, lengths
        ctx.sizes = [*sizes, *map(len, saved)]
        ctx.save_for_backward(*tensors, *(tensor for group in saved for tensor in group))
        return output, *final

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        groups = grouped(ctx.saved_tensors, *ctx.sizes)
        inputs, saved = Inputs(*groups[:6]), Saved(*groups[6:])
        needed = ctx.needs_input_grad[3:]
        with _without_autocast(gradients[0]):
            if torch.is_grad_enabled():  # create_graph: second derivatives go through the loop
                return None, None, None, *_replay(ctx.programs, ctx.lengths, inputs, gradients)
            of_output, *of_final = (gradient.contiguous() for gradient in gradients)
            of_inputs = ctx.programs.backward(
                ctx.lengths, inputs, saved, of_output, of_final, needed[0], keeps_graph()
            )
        pairs = zip(of_inputs, needed, strict=True)
        return None, None, None, *(gradient if need else None for gradient, need in pairs)


def _replay(
    programs: Programs, lengths: Lengths, inputs: Inputs, gradients: Any
) -> list[Tensor | None]:
    """Return the gradients of the inputs by the plain loop, themselves with a graph."""
    # Views, because a tensor that occurs twice would get its whole gradient twice.
    inputs = Inputs(*([tensor.view_as(tensor) for tensor in group] for group in inputs))
    sequences, initial, projection, *_ = inputs
    projected = [functional.linear(*sequences, *projection)] if projection else sequences
    final, output, _ = programs.steps.forward(lengths, projected, initial, inputs.parameters)
    tensors = [tensor for group in inputs for tensor in group]
    needed = [tensor for tensor in tensors if tensor.requires_grad]
    of_needed = iter(torch.autograd.grad(
        [output, *final], needed, gradients, create_graph=True, allow_unused=True
    ))  # fmt: skip
    return [next(of_needed) if tensor.requires_grad else None for tensor in tensors]
