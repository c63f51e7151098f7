"""Fills the compiled engine's cache, so that no later run waits for its compiler."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch

from cellzoo.engines.errors import in_one_line
from cellzoo.nn.rnn import RNN

# Any sizes will do, since one program serves all; units that heads divide.
STEPS, BATCH, INPUT, HIDDEN = 4, 3, 6, 8


def warm(cells: Sequence[str], say: Callable[[str], object], processes: int) -> dict[str, str]:
    """Compile each cell's float32 programs, by its forward and backward on a small input.

    Args:
        cells: registered names.
        say: is told a line for each cell, as it is done.
        processes: how many cells are compiled at once.

    Returns:
        The cells that cannot be compiled, and why.
    """
    failed = {}
    pool = _pool(min(processes, len(cells)))
    try:
        running = {pool.submit(_compile, cell): cell for cell in cells}
        for done in as_completed(running):
            cell = running[done]
            try:
                say(f"{cell}: {done.result():.1f} s")
            except Exception as error:  # one cell that fails must not leave the others cold
                failed[cell] = in_one_line(error)
                say(f"{cell}: not compiled: {failed[cell]}")
    finally:
        pool.shutdown(cancel_futures=True)
    return failed


def _pool(processes: int) -> Executor:
    """Processes that end at once, and say nothing, at Ctrl-C."""
    end_at_once = (signal.SIGINT, signal.SIG_DFL)
    return ProcessPoolExecutor(processes, get_context("spawn"), signal.signal, end_at_once)


def _compile(cell: str) -> float:
    """Compile a cell; returns the seconds that it took."""
    start = time.perf_counter()
    rnn = RNN(cell, INPUT, HIDDEN, engine="compiled")
    x = torch.randn(STEPS, BATCH, INPUT)
    output, _ = rnn(x)
    output.backward(torch.ones_like(output))
    rnn.eval()
    with torch.no_grad():
        rnn(x)
    return time.perf_counter() - start
