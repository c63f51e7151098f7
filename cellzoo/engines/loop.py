"""The plain loop: any cell, step by step. The reference that other engines are tested against."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from cellzoo.cells.base import GatedCell
from cellzoo.engines.packing import RunningStates, States, run_directions


def declines(
    layer: Sequence[GatedCell], x: Tensor, batch_sizes: Tensor | None, dt: Tensor | None
) -> str | None:
    """Why the loop cannot run this: it always can."""
    return None


def run(
    layer: Sequence[GatedCell],
    x: Tensor,
    states: Sequence[States],
    batch_sizes: Tensor | None = None,
    dt: Tensor | None = None,
) -> tuple[Tensor, list[States]]:
    """Run one layer, of one direction or two, through time.

    Args:
        layer: the cell of the forward direction and, if bidirectional, that of the backward one.
        x: (T, B, I); packed: (rows, I) with `batch_sizes` (T,).
        states: each direction's initial states, (B, width) each.
        batch_sizes: how many sequences are still running at each step; None: not packed.
        dt: elapsed times, of x's leading shape.

    Returns:
        The outputs, directions side by side in the last dimension, and the final states.
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
    """One direction of `run`."""
    cell = cell.prepare()
    projected = cell.project_sequence(x, dt)  # the input's products, all steps at once
    sizes = None if batch_sizes is None else batch_sizes.tolist()
    # unbind, and split for packed rows: the gradient of x[t] would be as large as all of x.
    steps = [
        dict(zip(projected, step, strict=True))
        for step in zip(
            *(t.unbind(0) if sizes is None else t.split(sizes) for t in projected.values()),
            strict=True,
        )
    ]
    order = range(len(steps) - 1, -1, -1) if reverse else range(len(steps))
    outputs: list[Tensor] = [x] * len(steps)
    if sizes is None:
        for t in order:
            initial, outputs[t] = cell.advance(steps[t], initial)
        return torch.stack(outputs), initial
    running = RunningStates(initial, reverse)
    for t in order:
        running.now, outputs[t] = cell.advance(steps[t], running.resize(sizes[t]))
    return torch.cat(outputs), running.final()
