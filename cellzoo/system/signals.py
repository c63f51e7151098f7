"""SIGTERM: the signal that a cluster or a timeout sends before it kills a process."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(SystemExit):
    """The end of a process by SIGTERM, with the exit status that a shell reports: 128 + 15."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Stop:
    """A handler of SIGTERM.

    Attributes:
        asked: Whether SIGTERM arrived.
        patient: Whether the handler only records the signal, for code that soon reaches a better
            place to stop. Otherwise it raises `Terminated` at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self.patient = False

    def __call__(self, *_: Any) -> None:
        """Handle the signal."""
        self.asked = True
        if not self.patient:
            raise Terminated


@contextmanager
def noting_sigterm() -> Iterator[Stop]:
    """Handle SIGTERM inside a `with` block, and restore the handlers afterwards.

    That includes the handler of SIGINT, because Lightning ignores SIGINT after Ctrl-C. Outside the
    main thread Python cannot set handlers, and nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, stop)
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, on_ctrl_c)


@contextmanager
def handling(
    numbers: Sequence[int], handler: Callable[[int, FrameType | None], object]
) -> Iterator[None]:
    """Handle signals for a while; outside the main thread, where Python cannot, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, previous in zip(numbers, before, strict=True):
            signal.signal(number, previous)
