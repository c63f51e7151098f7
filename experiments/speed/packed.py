"""Measure training steps on packed input with each engine: batches of the chorales of task `jsb`.

    python experiments/speed/packed.py [CELL…]

A step is forward and backward from a fixed gradient of the outputs, without a gradient of x and
without an optimizer; batch size 8 and 36 units as in `experiment=jsb`. Engines take turns; times
are medians over the rounds.
"""

import statistics
import sys
import time

import torch

from cellzoo import RNN
from cellzoo.engines import EngineError
from cellzoo.tasks.jsb import JSB

BATCHES, ROUNDS = 10, 15


def stepping(cell: str, engine: str, batches: list) -> object:
    """Return a function that makes a training step with each batch."""
    rnn = RNN(cell, JSB.input_size, 36, engine=engine)

    def run() -> None:
        for x in batches:
            rnn.zero_grad()
            rows = rnn(x)[0].data
            rows.backward(torch.ones_like(rows))

    run()  # compiles; raises EngineError if the engine declines
    return run


def main(cells: list[str]) -> None:
    batches = [x for x, _ in JSB(batch_size=8).train_dataloader()][:BATCHES]
    for cell in cells:
        runs = {}
        for engine in ("native", "compiled", "loop"):
            try:
                runs[engine] = stepping(cell, engine, batches)
            except EngineError:
                continue
        times: dict[str, list[float]] = {engine: [] for engine in runs}
        for _ in range(ROUNDS):
            for engine, run in runs.items():
                start = time.perf_counter()
                run()
                times[engine].append((time.perf_counter() - start) / BATCHES * 1e3)
        medians = {engine: statistics.median(values) for engine, values in times.items()}
        shown = ", ".join(f"{engine} {value:.2f} ms" for engine, value in medians.items())
        print(f"{cell}: {shown}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["lstm", "gru", "peephole_lstm"])
