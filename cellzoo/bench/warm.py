"""Compiling cells in advance, so that no later run waits for the compiler."""

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch

from cellzoo.engines.errors import in_one_line
from cellzoo.nn.rnn import RNN

# One program serves all sizes; the hidden size is divisible by numbers of heads.
STEPS, BATCH, INPUT, HIDDEN = 4, 3, 6, 8


def warm(cells: Sequence[str], report: Callable[[str], object], processes: int) -> dict[str, str]:
    """Compile each cell's float32 programs by a forward and a backward pass on a small input.

    Args:
        cells: registered names.
        report: a function that is called with a line of text for each finished cell.
        processes: the number of cells that are compiled in parallel.

    Returns:
        The reasons of the cells that cannot be compiled, by cell.
    """
    failed = {}
    pool = _pool(min(processes, len(cells)))
    try:
        running = {pool.submit(_compile, cell): cell for cell in cells}
        for done in as_completed(running):
            cell = running[done]
            try:
                report(f"{cell}: {done.result():.1f} s")
            except Exception as error:  # a failure must not keep the others from being compiled
                failed[cell] = in_one_line(error)
                report(f"{cell}: not compiled: {failed[cell]}")
    finally:
        pool.shutdown(cancel_futures=True)
    return failed


def _pool(processes: int) -> Executor:
    """Return processes that Ctrl-C ends immediately and without output."""
    default_interrupt = (signal.SIGINT, signal.SIG_DFL)
    return ProcessPoolExecutor(processes, get_context("spawn"), signal.signal, default_interrupt)


def _compile(cell: str) -> float:
    """Compile a cell and return the seconds."""
    start = time.perf_counter()
    rnn = RNN(cell, INPUT, HIDDEN, engine="compiled")
    x = torch.randn(STEPS, BATCH, INPUT)
    output, _ = rnn(x)
    output.backward(torch.ones_like(output))
    rnn.eval()
    with torch.no_grad():
        rnn(x)
    return time.perf_counter() - start
