"""The command line and the environment of a job's process."""

import sys
from os import PathLike


def command_line(order: str | PathLike[str]) -> list[str]:
    """Return the command line that runs an order (see `job`)."""
    return [sys.executable, "-m", "cellzoo.sweep.launchers.job", str(order)]


def thread_environment(number: int) -> dict[str, str]:
    """Return the environment in which the libraries of a process start `number` threads.

    >>> thread_environment(2)
    {'OMP_NUM_THREADS': '2', 'MKL_NUM_THREADS': '2', 'OPENBLAS_NUM_THREADS': '2'}
    """
    return {f"{library}_NUM_THREADS": str(number) for library in ("OMP", "MKL", "OPENBLAS")}
