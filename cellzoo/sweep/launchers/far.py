"""What launchers for other machines share: the far end of a job, and what is tried again.

All machines see one file system, with the sweep's directory at one path.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from cellzoo.sweep.launchers.base import LOCKED, Outcome, elsewhere, failed, judge
from cellzoo.sweep.launchers.job import Job
from cellzoo.sweep.record import log_attempt

GRACE = 60.0  # seconds between asking a job to end and ending it


def run_there(order: str, log: str, environment: Mapping[str, str]) -> int:
    """Run a job's order in a process of its own, and wait for it.

    SIGTERM, Slurm's warning SIGUSR2 and an interruption ask it to end; it keeps a checkpoint.

    Returns:
        Its exit status, or minus the signal that killed it.
    """
    # Lightning takes a process that has these for a rank that Slurm started.
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_NTASKS")}
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cellzoo.sweep.launchers.job", order],
            env={**env, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with _signals_passed_on(process):
            return process.wait()
    except BaseException:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        raise
    finally:
        _signal(process, signal.SIGKILL)  # what it left running
        process.wait()


@contextmanager
def _signals_passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask_to_end(number: int, frame: FrameType | None) -> None:
        _signal(process, signal.SIGTERM)

    signals = (signal.SIGTERM, signal.SIGUSR2)
    before = [signal.signal(each, ask_to_end) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def _signal(process: subprocess.Popen[bytes], which: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, which)


class Tries:
    """How often each job was tried, and what came of the last time.

    Args:
        retries: how often what a machine did to a job is tried again.
    """

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self._tries: Counter[Path] = Counter()

    def outcome(
        self, job: Job, code: int, before: int | None, slot: int, started: float
    ) -> Outcome | None:
        """What an ended attempt makes of its job; None where it is to be tried again.

        Args:
            job, code, before: as `launcher.judge` takes them.
            slot: a number for attempts.csv.
            started: when, in seconds of time.time().
        """
        verdict = judge(job, code, before)
        self._tries[job.directory] += 1
        number, again = self._tries[job.directory], verdict.again
        log_attempt(job.sweep, job.run, number, slot, started, again or "ended")
        if verdict.result is not None:
            return Outcome(job, verdict.result)
        if number <= self.retries:
            return None
        if code == LOCKED:
            return Outcome(job, elsewhere(job, again))
        return Outcome(job, failed(job, f"{again}, {number} times" if number > 1 else str(again)))
