"""SIGTERM: the signal that a cluster or a timeout sends before it kills a process."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
def handling(numbers: Sequence[int], handler: Any) -> Iterator[None]:
    """Handle signals inside a `with` block, and restore their handlers afterwards.

    Outside the main thread Python cannot set handlers, and nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, previous in zip(numbers, before, strict=True):
            signal.signal(number, previous)


@contextmanager
def noting_sigterm() -> Iterator[Stop]:
    """Handle SIGTERM by a `Stop` inside a `with` block, as `handling` does.

    The handler of SIGINT is restored too, because Lightning ignores SIGINT after Ctrl-C.
    """
    stop, on_ctrl_c = Stop(), signal.getsignal(signal.SIGINT)
    with handling([signal.SIGTERM], stop), handling([signal.SIGINT], on_ctrl_c):
        yield stop
