"""Measure `auto` over a short run, beside each engine that it could have chosen.

    python experiments/speed/auto.py [CELL…]

Each engine makes its training steps in twenty turns, settled and compiled before: 2,000 steps, and
at large shapes as many as take about as long.
"""

import sys
import time

import torch

from cellzoo import RNN
from cellzoo.engines import EngineError

TURNS = 20
STEPS = {
    (60, 8, 88, 36): 2000,
    (100, 32, 64, 64): 2000,
    (100, 32, 128, 128): 1000,
    (100, 32, 256, 256): 300,
    (35, 20, 200, 200): 2000,
    (784, 64, 1, 128): 60,
}


def training(cell: str, engine: str, shape: tuple[int, ...]):
    """Return the settled engine, and a function that makes a number of training steps."""
    time_steps, batch, input_size, hidden_size = shape
    rnn = RNN(cell, input_size, hidden_size, engine=engine)
    rnn.settle_engine()
    optimizer = torch.optim.Adam(rnn.parameters())
    x = torch.randn(time_steps, batch, input_size)

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            rnn(x)[0].square().mean().backward()
            optimizer.step()

    run(1)  # compiles; raises EngineError if the engine declines
    return rnn.engine, run


def main(cells: list[str]) -> None:
    for cell in cells:
        for shape, steps in STEPS.items():
            runs = {}
            for engine in ("auto", "native", "compiled"):
                try:
                    runs[engine] = training(cell, engine, shape)
                except EngineError:
                    continue
            seconds = dict.fromkeys(runs, 0.0)
            for _ in range(TURNS):
                for engine, (_, run) in runs.items():
                    start = time.perf_counter()
                    run(steps // TURNS)
                    seconds[engine] += time.perf_counter() - start
            best = min(value for engine, value in seconds.items() if engine != "auto")
            shown = ", ".join(f"{engine} {value:.2f} s" for engine, value in seconds.items())
            more = seconds["auto"] / best - 1
            print(f"{cell} {shape}: {shown}; auto is {runs['auto'][0]}, {more:+.0%}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["lstm", "gru"])
