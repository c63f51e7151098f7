"""The plain loop: any cell, step by step. It is the reference implementation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cellzoo.cells.prepared import PreparedCell
from cellzoo.engines.packing import Layer, States, run_projected


def declines(layer: Layer) -> str | None:
    """Return None: the loop runs every cell."""
    return None


def run(
    layer: Layer, states: Sequence[States], checkpoint_steps: int | None = None
) -> tuple[Tensor, list[States]]:
    """Run one layer over time.

    Args:
        layer: its cells and their input.
        states: each direction's initial states, (B, width) each.
        checkpoint_steps: see `packing.checkpointed`.

    Returns:
        The outputs, with directions concatenated in the last dimension, and the final states.
    """
    return run_projected(_run_dense, layer, states, checkpoint_steps)


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
