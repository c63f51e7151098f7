"""Any cell at fused speed: its steps compiled, several at a time.

The input projection is one product before the loop; the loop's chunks are compiled from the
author's update, forward and backward; each weight's gradient is one product after the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cellzoo.cells.base import GatedCell
from cellzoo.engines.compiled.artifacts import Programs, programs
from cellzoo.engines.packing import States, run_directions, run_segments

STEPS = 4  # in a chunk: more is little faster and compiles much longer


def declines(
    layer: Sequence[GatedCell], x: Tensor, batch_sizes: Tensor | None, dt: Tensor | None
) -> str | None:
    """Why this cannot be compiled; None if it can."""
    cell = layer[0]
    if x.device.type != "cpu":
        return f"not proved on {x.device.type} yet"
    if x.dtype not in (torch.float32, torch.float64):
        return f"not proved for {x.dtype}"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast is not compiled yet"
    if torch._C._functorch.maybe_current_level() is not None:
        return "torch.func's transforms do not see through compiled code"
    odd = [n for n, s in cell.layout.states.items() if s.dtype not in (None, x.dtype)]
    if odd:
        return f"state {odd[0]} is not {x.dtype}"
    return None


def run(
    layer: Sequence[GatedCell],
    x: Tensor,
    states: Sequence[States],
    batch_sizes: Tensor | None = None,
    dt: Tensor | None = None,
) -> tuple[Tensor, list[States]]:
    """Run one layer through time; arguments and result as `loop.run`.

    Raises:
        CompileError: the cell cannot be traced or compiled.
    """
    return run_directions(layer, states, partial(_run_direction, x, batch_sizes, dt))


def _run_direction(
    x: Tensor,
    batch_sizes: Tensor | None,
    dt: Tensor | None,
    cell: GatedCell,
    initial: States,
    reverse: bool,
) -> tuple[Tensor, States]:
    """One direction: packed input as runs of equal batch size."""
    cell = cell.prepare()
    projected = cell.project_sequence(x, dt)
    dense = partial(_run_dense, programs(cell, tuple(projected)), cell, reverse)
    if batch_sizes is None:
        return dense(list(projected.values()), initial)
    return run_segments(list(projected.values()), initial, batch_sizes, reverse, dense)


def _run_dense(
    made: Programs, cell: GatedCell, reverse: bool, projected: Sequence[Tensor], initial: States
) -> tuple[Tensor, States]:
    projected = [tensor.flip(0) if reverse else tensor for tensor in projected]
    weights, biases = made.chunk.weights_of(cell)
    groups = [projected, initial, weights, biases, made.chunk.extras_of(cell)]
    sizes = [len(group) for group in groups]
    output, *final = _Sequence.apply(made, sizes, *(tensor for group in groups for tensor in group))
    return output.flip(0) if reverse else output, tuple(final)


def _grouped(tensors: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    left = iter(tensors)
    return [[next(left) for _ in range(size)] for size in sizes]


class _Sequence(torch.autograd.Function):
    """A sequence in chunks: keeps the states and the early products, and nothing else."""

    @staticmethod
    def forward(ctx: Any, made: Programs, sizes: list[int], *tensors: Tensor) -> Any:
        projected, initial, weights, biases, extras = _grouped(tensors, sizes)
        length, states = len(projected[0]), [state.contiguous() for state in initial]
        projected = [tensor.contiguous() for tensor in projected]
        chunks = []
        for start in range(0, length, STEPS):
            part = [tensor[start : start + STEPS] for tensor in projected]
            chunk = made.forward(part, states, weights, biases, extras)
            chunks.append(chunk)
            states = [tensor[-1] for tensor in chunk[0]]
        of_states = [torch.cat(parts) for parts in zip(*(c[0] for c in chunks), strict=True)]
        output = torch.cat([c[1][0] for c in chunks]) if chunks[0][1] else of_states[0]
        ctx.made, ctx.sizes = made, sizes
        ctx.early = [c[2] for c in chunks]
        ctx.save_for_backward(*tensors, *of_states)
        # Copies: what is returned must not share memory with what is saved.
        finals = [state[-1].clone() for state in of_states]
        return output.clone() if output is of_states[0] else output, *finals

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        made, sizes = ctx.made, ctx.sizes
        inputs, after = ctx.saved_tensors[: sum(sizes)], ctx.saved_tensors[sum(sizes) :]
        if torch.is_grad_enabled():  # create_graph: a second derivative goes through the loop
            return None, None, *_replay(made, sizes, inputs, gradients)
        projected, initial, weights, biases, extras = _grouped(inputs, sizes)
        chunk = made.chunk
        of_outputs, states_gradient = gradients[0].contiguous(), list(gradients[1:])
        states_gradient = [gradient.contiguous() for gradient in states_gradient]
        found: list[Any] = []
        of_extras = [torch.zeros_like(extra) for extra in extras]
        for number, start in reversed(list(enumerate(range(0, len(projected[0]), STEPS)))):
            steps = slice(start, start + STEPS)
            before = [s[start - 1] for s in after] if start else [s.contiguous() for s in initial]
            *parts, states_gradient, sums = made.backward(
                [tensor[steps].contiguous() for tensor in projected], ctx.early[number], before,
                [s[steps] for s in after], of_outputs[steps], states_gradient,
                weights, biases, extras,
            )  # fmt: skip
            found.append(parts)
            of_extras = [a + b for a, b in zip(of_extras, sums, strict=True)]
        of_projected, of_early, of_late, operands = (
            [torch.cat(each) for each in zip(*part, strict=True)]
            for part in zip(*reversed(found), strict=True)
        )
        previous = [
            torch.cat([i.unsqueeze(0), s[:-1]]) for i, s in zip(initial, after, strict=True)
        ]
        operands = [chunk.operand(names, previous) for names in chunk.early] + operands
        of_weights, of_biases = _after_the_loop(
            chunk, weights, biases, operands, of_early + of_late
        )
        every = [*of_projected, *states_gradient, *of_weights, *of_biases, *of_extras]
        wanted = ctx.needs_input_grad[2:]
        return None, None, *(g if want else None for g, want in zip(every, wanted, strict=True))


def _after_the_loop(
    chunk: Any, weights: Any, biases: Any, operands: Any, gradients: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradients of the weights and biases: one product each, over all steps."""
    of_weights, of_biases = [], []
    names = [*chunk.early, *chunk.late]
    pairs = chunk._pairs(weights, biases)
    for name, (weight, bias), v, gradient in zip(names, pairs, operands, gradients, strict=True):
        v, gradient = v.flatten(0, 1), gradient.flatten(0, 1)
        if weight.dim() == 2 and v.shape[-1] == weight.shape[-1]:
            of_weights.append(gradient.T @ v)
        else:  # diagonal, heads
            with torch.enable_grad():
                leaf = weight.detach().requires_grad_()
                product = chunk.product(chunk.cell, name, v, leaf)
            of_weights.append(torch.autograd.grad(product, leaf, gradient)[0])
        if bias is not None:
            of_biases.append(gradient.sum(0))
    return of_weights, of_biases


def _replay(made: Programs, sizes: Any, inputs: Any, gradients: Any) -> list[Tensor | None]:
    """The gradients by the plain loop, themselves with a graph."""
    projected, states, weights, biases, extras = _grouped(inputs, sizes)
    cell = made.chunk.restored(states, weights, biases, extras)
    outputs = []
    names = made.chunk.projected
    for now in zip(*(tensor.unbind(0) for tensor in projected), strict=True):
        step = cell.advance(dict(zip(names, now, strict=True)), tuple(states))
        states = list(step.states)
        outputs.append(step.output)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = torch.autograd.grad(
        [torch.stack(outputs), *states], wanted, gradients, create_graph=True, allow_unused=True
    )
    left = iter(found)
    return [next(left) if tensor.requires_grad else None for tensor in inputs]
