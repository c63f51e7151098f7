"""Commands in processes of their own, forked from a process that holds the imports."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["wandb", "lightning.pytorch", "cellzoo.sweep"])


def start(arguments: list[str], folder: Path, **environment: str) -> BaseProcess:
    """Start `cellzoo …` in `folder`; the output goes to <folder>/said."""
    process = _context.Process(target=_main, args=(arguments, folder, environment))
    process.start()
    return process


def finish(process: BaseProcess, seconds: float = 120) -> int:
    """Wait for the end and return the exit status, negative for the signal that killed it."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the process did not end")
    return process.exitcode


def run(arguments: list[str], folder: Path, **environment: str) -> int:
    """Run `cellzoo …` to the end and return the exit status."""
    return finish(start(arguments, folder, **environment))


def _main(arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
    import torch

    from cellzoo.cli import main

    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ.update(environment)
    with open("said", "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.exit(main(arguments))
