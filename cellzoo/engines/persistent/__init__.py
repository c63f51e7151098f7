"""All steps in one Triton kernel, made of any cell's update: for hidden sizes that fit on chip.

A program of the kernel owns a block of the batch and runs its loop over time with the recurrent
matrices loaded once, where `compiled` launches kernels at every step. What is outside the loop is
as in `compiled`: the input projection before it, the weights' gradients after it.

Not measured, and not run on a GPU: there was none at hand. The kernels were tested by Triton's
interpreter (TRITON_INTERPRET=1), which runs them on the CPU, slowly.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from cellzoo.cells.base import GatedCell
from cellzoo.engines import compiled
from cellzoo.engines.compiled.traced import has_triton
from cellzoo.engines.packing import States, run_directions
from cellzoo.engines.persistent.kernels import Kernels
from cellzoo.engines.persistent.operations import padded

#: Bytes of matrices. A multiprocessor's shared memory holds them and, for the backward pass, half
#: as much again of a step's inputs; what fits exactly, only Triton's compiler knows.
ON_CHIP = 128 << 10


def declines(
    layer: Sequence[GatedCell], x: Tensor, batch_sizes: Tensor | None, dt: Tensor | None
) -> str | None:
    """Why no kernel can run this; None if one can, as far as can be told before it is written."""
    cell = layer[0]
    dtype, device = cell._like.dtype, cell._like.device.type
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device != "cuda" and not (interpreted and device == "cpu"):
        return "its kernels are for CUDA (and for Triton's interpreter: TRITON_INTERPRET=1)"
    if not has_triton():
        return "triton is not installed"
    if dtype != torch.float32 and not (interpreted and dtype == torch.float64):
        return f"not proved for {dtype}"
    if device == "cpu" and _autocast_dtype(cell) == torch.bfloat16:
        return "Triton's interpreter does not multiply bfloat16"
    if (size := matrix_bytes(cell)) > ON_CHIP:
        return f"its matrices take {size >> 10} KiB, and {ON_CHIP >> 10} are on chip"
    return compiled.untraceable(cell)


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
        EngineError: the update does what no kernel has; the message names it.
    """
    run = partial(compiled.run_direction, Kernels, x, batch_sizes, dt, checkpoint_steps)
    return run_directions(layer, states, run)


def matrix_bytes(cell: GatedCell) -> int:
    """What a cell's matrices take in tiles; a late product's twice, for the backward pass."""
    hidden = cell.hidden_size
    numbers = 0
    for block in cell.layout.blocks.values():
        for gate, rows in block.rows.items():
            numbers += (1 + cell.layout.gates[gate].late) * rows * block.columns
    numbers += sum(2 * getattr(cell, name).numel() for name in cell._matrices)
    size = min(cell._like.itemsize, (_autocast_dtype(cell) or cell._like.dtype).itemsize)
    return int(numbers * size * (padded(hidden) / hidden) ** 2)


def _autocast_dtype(cell: GatedCell) -> torch.dtype | None:
    """What autocast has products in; None where it is off."""
    device = cell._like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
