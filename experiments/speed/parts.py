"""Measure the parts of a compiled training step, on one thread.

    python experiments/speed/parts.py [CELL…]

Prints CPU milliseconds of the fastest of 25 rounds of 10 steps: the input product, the loop over
time forward and backward (including its products with the states), the products for the gradients
of the weights, and the rest: Python, autograd and torch's operations.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partialmethod

import torch

from cellzoo import RNN
from cellzoo.engines.compiled.cpu.library import Library

SHAPES = [(60, 8, 88, 36), (100, 32, 64, 64), (100, 32, 256, 256)]
ROUNDS, STEPS = 25, 10
PARTS = {"linear": "input product", "outer": "weights' gradients", "run": "loop"}


def watch(spent: Counter[str]) -> None:
    """Add the time of each call of a library to the part that it belongs to."""

    def timed(
        library: Library, function: Callable[..., object], name: str, *arguments: object
    ) -> object:
        start = time.thread_time()
        result = function(library, *arguments)
        part = PARTS[name]
        if name == "run":
            part += " backward" if arguments[-1] else " forward"
        spent[part] += time.thread_time() - start
        return result

    for name in PARTS:
        setattr(Library, name, partialmethod(timed, getattr(Library, name), name))


def step(rnn: RNN, x: torch.Tensor, gradient: torch.Tensor) -> None:
    for parameter in rnn.parameters():
        parameter.grad = None
    rnn(x)[0].backward(gradient)


def main(cells: list[str]) -> None:
    torch.set_num_threads(1)
    spent: Counter[str] = Counter()
    watch(spent)
    for cell in cells:
        for steps, batch, input_size, hidden_size in SHAPES:
            rnn = RNN(cell, input_size, hidden_size, engine="compiled")
            x = torch.randn(steps, batch, input_size)
            gradient = torch.randn_like(rnn(x)[0])
            step(rnn, x, gradient)
            best: Counter[str] = Counter()
            for _ in range(ROUNDS):
                spent.clear()
                start = time.thread_time()
                for _ in range(STEPS):
                    step(rnn, x, gradient)
                whole = time.thread_time() - start
                spent["rest"] = whole - spent.total()
                if not best or whole < best.total():
                    best = spent.copy()
            shown = ", ".join(f"{part} {1e3 * value / STEPS:.2f}" for part, value in best.items())
            print(f"{cell} {(steps, batch, input_size, hidden_size)}: {shown}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["lstm", "layernorm_lstm"])
