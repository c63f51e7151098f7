"""The plain loop: any cell, step by step. It is the reference implementation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cellzoo.cells.base import GatedCell
from cellzoo.cells.prepared import PreparedCell
from cellzoo.engines.packing import States, run_projected


def declines(
    layer: Sequence[GatedCell], x: Tensor, batch_sizes: Tensor | None, dt: Tensor | None
) -> str | None:
    """Return None: the loop runs every cell."""
    return None


def run(
    layer: Sequence[GatedCell],
    x: Tensor,
    states: Sequence[States],
    batch_sizes: Tensor | None = None,
    dt: Tensor | None = None,
    checkpoint_steps: int | None = None,
) -> tuple[Tensor, list[States]]:
    """Run one layer, in one direction or two, over time.

    Args:
        layer: the cell of the forward direction and, if bidirectional, of the backward one.
        x: (T, B, I); packed: (rows, I) with `batch_sizes` (T,).
        states: each direction's initial states, (B, width) each.
        batch_sizes: the number of sequences at each step (T,); None: x is not packed.
        dt: elapsed times, in x's leading shape.
        checkpoint_steps: see `packing.checkpointed`.

    Returns:
        The outputs, with directions concatenated in the last dimension, and the final states.
    """
    return run_projected(_run_dense, layer, x, states, batch_sizes, dt, checkpoint_steps)


def _run_dense(
    cell: PreparedCell, names: list[str], reverse: bool, projected: list[Tensor], states: States
) -> tuple[Tensor, States]:
    # unbind, because the gradient of x[t] would be as large as all of x.
    rows = zip(*(tensor.unbind(0) for tensor in projected), strict=True)
    steps = [dict(zip(names, values, strict=True)) for values in rows]
    outputs = []
    for step in reversed(steps) if reverse else steps:
        states, output = cell.advance(step, states)
        outputs.append(output)
    return torch.stack(outputs[::-1] if reverse else outputs), states
