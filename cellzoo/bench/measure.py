"""Times by rounds: each contender once a round, in an order of its own each time.

A machine that slows down or is disturbed then does so to all of them alike.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

LEAST = 0.03  # seconds: what one measurement takes at least, for the clock and the scheduler

Key = TypeVar("Key", bound=Hashable)
Call = Callable[[], object]
Clock = Callable[[], float]


def seconds(call: Call, number: int, clock: Clock, wait: Call) -> float:
    """The seconds that `number` calls take; `wait` returns when the device is done."""
    wait()
    start = clock()
    for _ in range(number):
        call()
    wait()
    return clock() - start


def calibrate(call: Call, clock: Clock, wait: Call) -> int:
    """How many calls make a measurement of at least `LEAST` seconds."""
    number = 1
    while (elapsed := seconds(call, number, clock, wait)) < LEAST:
        enough = math.ceil(1.2 * number * LEAST / elapsed) if elapsed > 0 else 10 * number
        number = max(number + 1, min(enough, 10 * number))
    return number


def interleaved(
    calls: Mapping[Key, Callable[[], Call]],
    rounds: int,
    seed: int,
    clock: Clock = time.perf_counter,
    wait: Call = lambda: None,
    on_round: Callable[[int], object] = lambda number: None,
) -> dict[Key, list[float]]:
    """The seconds of one call of each, in every round.

    Args:
        calls: each gives, ready to run, what is then timed; each has run before.
        rounds: measurements of each.
        seed: of the order within the rounds.
        clock, wait: see `seconds`.
        on_round: is told the number of each round as it begins.
    """
    generator = random.Random(seed)
    numbers = {key: calibrate(ready(), clock, wait) for key, ready in calls.items()}
    times: dict[Key, list[float]] = {key: [] for key in calls}
    gc.collect()
    gc.freeze()  # a full collection within somebody's turn would last longer than the turn
    try:
        for number in range(rounds):
            on_round(number)
            for key in generator.sample(list(calls), len(calls)):
                elapsed = seconds(calls[key](), numbers[key], clock, wait)
                times[key].append(elapsed / numbers[key])
    finally:
        gc.unfreeze()
    return times
