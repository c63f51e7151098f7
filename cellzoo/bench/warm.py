"""Fills the compiled engine's cache, so that no later run waits for its compiler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from cellzoo.engines.errors import in_one_line
from cellzoo.rnn import RNN

# Any sizes will do, since one program serves all; units that heads divide.
STEPS, BATCH, INPUT, HIDDEN = 4, 3, 6, 8


def warm(cells: Sequence[str], say: Callable[[str], object]) -> dict[str, str]:
    """Compile each cell's float32 programs, by its forward and backward on a small input.

    Args:
        cells: registered names.
        say: is told a line for each cell.

    Returns:
        The cells that cannot be compiled, and why.
    """
    failed = {}
    for cell in cells:
        start = time.perf_counter()
        try:
            _compile(cell)
        except Exception as error:  # one cell that fails must not leave the others cold
            failed[cell] = in_one_line(error)
            say(f"{cell}: not compiled: {failed[cell]}")
        else:
            say(f"{cell}: {time.perf_counter() - start:.1f} s")
    return failed


def _compile(cell: str) -> None:
    rnn = RNN(cell, INPUT, HIDDEN, engine="compiled")
    x = torch.randn(STEPS, BATCH, INPUT)
    rnn.eval()
    with torch.no_grad():
        rnn(x)
    rnn.train()
    output, _ = rnn(x)
    output.backward(torch.ones_like(output))
