"""Times by rounds: in each round, every contender runs once, in random order.

A machine that slows down, or a disturbance, then affects all contenders alike.
"""

import gc
import math
import random
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

LEAST = 0.03  # seconds of a measurement, enough for the resolution of clock and scheduler

Key = TypeVar("Key", bound=Hashable)
Call = Callable[[], object]
Clock = Callable[[], float]


def seconds(call: Call, number: int, clock: Clock, wait: Call) -> float:
    """Return the seconds of `number` calls; `wait` returns when the device is idle."""
    wait()
    start = clock()
    for _ in range(number):
        call()
    wait()
    return clock() - start


def calibrate(call: Call, clock: Clock, wait: Call) -> int:
    """Return the number of calls for a measurement of at least `LEAST` seconds."""
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
    """Return the seconds of one call of each, in every round.

    Args:
        calls: functions that prepare and return the call to time; each has run before.
        rounds: the number of rounds.
        seed: the seed of the order within the rounds.
        clock, wait: see `seconds`.
        on_round: a function that is called with the number of each round at the start.
    """
    generator = random.Random(seed)
    numbers = {key: calibrate(ready(), clock, wait) for key, ready in calls.items()}
    times: dict[Key, list[float]] = {key: [] for key in calls}
    gc.collect()
    gc.freeze()  # a full collection would take longer than a measurement
    try:
        for number in range(rounds):
            on_round(number)
            for key in generator.sample(list(calls), len(calls)):
                elapsed = seconds(calls[key](), numbers[key], clock, wait)
                times[key].append(elapsed / numbers[key])
    finally:
        gc.unfreeze()
    return times
