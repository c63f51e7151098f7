"""Ranks: the processes that train one run together."""

import os
import threading
import time
from typing import Any

from torch import distributed


def rank() -> int:
    """Return the rank of this process in torch's process group; 0 where there is no group."""
    return distributed.get_rank() if _initialized() else 0


def world_size() -> int:
    """Return the number of processes in torch's process group; 1 where there is no group."""
    return distributed.get_world_size() if _initialized() else 1


def global_rank() -> int:
    """Return the rank that Lightning or a launcher gave this process; 0 for a single process.

    Unlike `rank`, the answer is right before the process group exists: Lightning reads RANK,
    LOCAL_RANK or SLURM_PROCID when it is imported.
    """
    from lightning.pytorch.utilities import rank_zero_only  # a heavy import

    return getattr(rank_zero_only, "rank", 0)


def is_main_process() -> bool:
    """Return whether this process is rank 0, which alone writes files and prints."""
    return global_rank() == 0


def all_gather(value: Any) -> list[Any]:
    """Return the values that all ranks pass, by rank. Every rank must call this function.

    >>> all_gather("a picklable object")  # a single process
    ['a picklable object']
    """
    gathered: list[Any] = [value] * world_size()
    if _initialized():
        distributed.all_gather_object(gathered, value)
    return gathered


def end_with_parent() -> None:
    """Exit, from now on, as soon as the parent process is gone. A thread checks every second."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _initialized() -> bool:
    return distributed.is_available() and distributed.is_initialized()
