"""All steps of any cell in one Triton kernel, for hidden sizes that fit on chip.

A program of the kernel owns a block of the batch. It loads the recurrent matrices once and runs
the loop over time, where `compiled` launches kernels at every step. The products outside the loop
are as in `compiled`: the input projection before, the gradients of the weights after.

Not measured, and not run on a GPU: none was available. The kernels were tested by Triton's
interpreter (TRITON_INTERPRET=1), which runs them on the CPU, slowly.
"""

import os
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from cellzoo.cells.base import GatedCell
from cellzoo.engines import compiled
from cellzoo.engines.compiled.cuda.traced import has_triton
from cellzoo.engines.compiled.precision import autocast_to
from cellzoo.engines.packing import Layer, States, run_directions
from cellzoo.engines.persistent.kernels import Kernels
from cellzoo.engines.persistent.operations import padded

#: Bytes of matrices. The shared memory of a multiprocessor holds them and, for the backward pass,
#: half as much again for a step's inputs. Only Triton's compiler knows the exact limit.
ON_CHIP = 128 << 10


def declines(layer: Layer) -> str | None:
    """Return the reason why no kernel can run this; None if none is known in advance."""
    cell = layer.cells[0]
    dtype, device = cell._like.dtype, cell._like.device.type
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device != "cuda" and not (interpreted and device == "cpu"):
        return "its kernels are for CUDA (and for Triton's interpreter: TRITON_INTERPRET=1)"
    if not has_triton():
        return "triton is not installed"
    if dtype != torch.float32 and not (interpreted and dtype == torch.float64):
        return f"not tested with {dtype}"
    if device == "cpu" and autocast_to(cell._like.device) == torch.bfloat16:
        return "Triton's interpreter does not multiply bfloat16"
    if (size := matrix_bytes(cell)) > ON_CHIP:
        return f"its matrices take {size >> 10} KiB, and {ON_CHIP >> 10} are on chip"
    return compiled.untraceable(cell)


def run(
    layer: Layer, states: Sequence[States], checkpoint_steps: int | None = None
) -> tuple[Tensor, list[States]]:
    """Run one layer over time; arguments and result as for `loop.run`.

    Raises:
        EngineError: a kernel does not support the update; the message names the operation.
    """
    run = partial(compiled.run_direction, Kernels, layer, checkpoint_steps)
    return run_directions(layer, states, run)


def matrix_bytes(cell: GatedCell) -> int:
    """Return the bytes of a cell's matrices in tiles; late ones count twice (transposed)."""
    hidden = cell.hidden_size
    numbers = 0
    for block in cell.layout.blocks.values():
        for gate, rows in block.rows.items():
            numbers += (1 + cell.layout.gates[gate].late) * rows * block.columns
    numbers += sum(2 * getattr(cell, name).numel() for name in cell._matrices)
    size = min(cell._like.itemsize, (autocast_to(cell._like.device) or cell._like.dtype).itemsize)
    return int(numbers * size * (padded(hidden) / hidden) ** 2)
