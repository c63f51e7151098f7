"""Lock files: one process holds a lock, and its death releases it, even by kill -9."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 0.5  # seconds to wait for the lock: `held` takes it for an instant


class LockedError(RuntimeError):
    """A lock that another process holds; the message names the process."""


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold a lock inside a `with` block.

    The file stays on disk afterwards: only the operating system's lock on it counts.

    Raises:
        LockedError: Another process holds the lock, or this one does already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        _lock(file.fileno(), path)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def held(path: Path) -> bool:
    """Return whether a process holds the lock.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lock = Path(folder) / "lock"
    ...     with hold(lock):
    ...         print(held(lock))
    ...     print(held(lock))
    True
    False
    """
    try:
        with path.open() as file:
            return not _try(file.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _lock(descriptor: int, path: Path) -> None:
    """Take an exclusive lock, waiting up to PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not _try(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            holder = path.read_text() or "another process"
            raise LockedError(f"{path.parent} is in use by {holder}")
        time.sleep(PATIENCE / 50)


def _try(descriptor: int, kind: int) -> bool:
    """Take a lock without waiting, and return whether that succeeded."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
