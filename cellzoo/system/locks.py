"""A file that one process holds at a time, and that its death lets go of, kill -9 too."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 0.5  # seconds: `held` takes the lock for an instant


class LockedError(RuntimeError):
    """Another process holds the file; the message says which."""


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold a file. It stays there afterwards: only the system's lock on it counts.

    Raises:
        LockedError: it is held, by another process or in this one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        _lock(file.fileno(), path)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def held(path: Path) -> bool:
    """Whether somebody holds the file."""
    try:
        with path.open() as file:
            return not _try(file.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not _try(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            holder = path.read_text() or "another process"
            raise LockedError(f"{path.parent} is in use by {holder}")
        time.sleep(PATIENCE / 50)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
