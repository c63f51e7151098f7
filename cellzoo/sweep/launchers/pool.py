"""The launcher `pool`: a process for each job, as many at once as there are slots.

It is a queue: whichever slot is free takes the next job. What the machine does to a job (a signal,
no memory) is tried again a few times, and the run goes on from its last checkpoint; what the job
does itself (diverge, raise) is its result.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cellzoo.config.compose import ConfigError
from cellzoo.run.directory import read_result
from cellzoo.sweep.launchers.base import Outcome, elsewhere, failed, judge, written
from cellzoo.sweep.launchers.job import LOCKED, Job
from cellzoo.sweep.launchers.server import Server, ServerError
from cellzoo.sweep.launchers.slots import Slot, find_room
from cellzoo.sweep.record import log_attempt
from cellzoo.sweep.settings import retries

GRACE = 10.0  # seconds between asking a job to end and ending it
PAUSE = 1.0  # seconds before a run that another process holds is tried again
LOCKED_TRIES = 5
DEATHS = 3  # of the server, which is started anew
STARTS = ("auto", "fork", "spawn")


@dataclass
class Attempt:
    """One try at a job."""

    job: Job
    number: int = 1
    locked: int = 0
    not_before: float = 0.0
    slot: Slot | None = None
    started: float = 0.0
    before: int | None = None  # when result.json was written last, before it
    asked_to_end: bool = False  # its time was over


class Pool:
    """See `launcher.Launcher`."""

    def __init__(self, settings: Mapping[str, Any], trainer: Mapping[str, Any]) -> None:
        self.room = find_room(settings, trainer)
        self.timeout = _seconds("timeout", settings["timeout"])
        self.retries = retries(settings["retries"])
        if settings["start"] not in STARTS:
            raise ConfigError(
                f"launcher.start is one of {', '.join(STARTS)}, not {settings['start']!r}"
            )
        self._start = settings["start"]
        self._environment: Mapping[str, str] = {}
        self._server = Server(self._start, self.room.threads)  # imports while jobs are composed
        self._free = deque(self.room.slots)
        self._waiting: deque[Attempt] = deque()  # for another try
        self._running: dict[int, Attempt] = {}
        self._started = 0
        self._deaths = 0

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        return len(self.room.slots)

    def start(self, environment: Mapping[str, str]) -> None:
        """Have the server load the plugins; it has been importing since."""
        self._environment = environment
        self._server.prepare(environment)

    def describe(self) -> str:
        """Where jobs run and how they are started; waits until the server can."""
        (ready,) = self._server.messages(None)
        why = f" ({ready['why']})" if ready["why"] else ""
        return f"{self.room.description}; started by {ready['ready']}{why}"

    def run(self, jobs: Iterator[Job]) -> Iterator[Outcome]:
        """Run the jobs, and yield each one's outcome as it ends."""
        while True:
            jobs_remain = self._fill(jobs)
            if not self._running and not self._waiting and not jobs_remain:
                return
            for number, code in self._ended():
                attempt = self._running.pop(number)
                outcome = self._outcome(attempt, code)
                assert attempt.slot is not None
                self._free.append(attempt.slot)
                if outcome is not None:
                    yield outcome
            self._end_late()

    def close(self) -> None:
        """End what runs: asked first, so that it writes where to go on from; then the server."""
        try:
            for number in self._running:
                self._server.signal(number, signal.SIGTERM)
            deadline = time.monotonic() + GRACE
            while self._running and time.monotonic() < deadline:
                for message in self._server.messages(deadline - time.monotonic()):
                    self._running.pop(message["ended"], None)
        except ServerError:
            pass
        finally:
            self._server.close()

    def _fill(self, jobs: Iterator[Job]) -> bool:
        """Start jobs while slots are free. Returns whether there may be more."""
        while self._free:
            attempt = self._next(jobs)
            if attempt is None:
                return False
            attempt.slot = self._free.popleft()
            attempt.started = time.time()
            attempt.before = written(attempt.job.directory)
            self._started += 1
            self._running[self._started] = attempt
            self._server.start(
                self._started, attempt.job.order, attempt.job.log, attempt.slot.environment
            )
        return True

    def _next(self, jobs: Iterator[Job]) -> Attempt | None:
        now = time.time()
        for attempt in self._waiting:
            if attempt.not_before <= now:
                self._waiting.remove(attempt)
                return attempt
        job = next(jobs, None)
        if job is None:
            return None
        job.write_order()
        return Attempt(job)

    def _ended(self) -> Iterator[tuple[int, int]]:
        """Numbers and exit codes of the attempts that end within a while."""
        try:
            for message in self._server.messages(self._patience()):
                if "ended" in message:
                    yield message["ended"], message["code"]
        except ServerError:
            self._deaths += 1
            if self._deaths > DEATHS:
                raise
            for number in list(self._running):  # they end with their server
                yield number, -signal.SIGKILL
            self._server.close()
            self._server = Server(self._start, self.room.threads)
            self._server.prepare(self._environment)

    def _patience(self) -> float | None:
        """Seconds until there is something to do, whatever the server says."""
        times = [attempt.not_before for attempt in self._waiting] if self._free else []
        times += [limit for each in self._running.values() if (limit := self._limit(each))]
        return max(0.0, min(times) - time.time()) + 0.01 if times else None

    def _limit(self, attempt: Attempt) -> float | None:
        """When an attempt's time is over; asked to end, it has a while more."""
        if self.timeout is None:
            return None
        return attempt.started + self.timeout + (GRACE if attempt.asked_to_end else 0)

    def _end_late(self) -> None:
        for number, attempt in self._running.items():
            limit = self._limit(attempt)
            if limit is not None and time.time() >= limit:
                asked, attempt.asked_to_end = attempt.asked_to_end, True
                self._server.signal(number, signal.SIGKILL if asked else signal.SIGTERM)

    def _outcome(self, attempt: Attempt, code: int) -> Outcome | None:
        """What an ended attempt makes of its job; None where it is tried again."""
        job, verdict = attempt.job, judge(attempt.job, code, attempt.before)
        result, again = verdict.result, verdict.again
        if result is None and attempt.asked_to_end:
            result = failed(job, f"timed out after {self.timeout:g} s")
        assert attempt.slot is not None
        slot, how = attempt.slot.number, again or "ended"
        log_attempt(job.sweep, job.run, attempt.number, slot, attempt.started, how)
        if job.log.exists() and not job.log.stat().st_size:
            job.log.unlink()
        if result is not None:
            return Outcome(job, result)
        if code == LOCKED:
            attempt.locked += 1
            attempt.not_before = time.time() + PAUSE
            if attempt.locked > LOCKED_TRIES:
                return Outcome(job, {**(read_result(job.directory) or {}), **elsewhere(job, again)})
        elif attempt.number > self.retries:
            reason = f"{again}, {attempt.number} times" if self.retries else again
            return Outcome(job, failed(job, str(reason)))
        else:
            attempt.number += 1
        self._waiting.append(attempt)
        return None


def _seconds(key: str, value: Any) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ConfigError(f"launcher.{key} is a number of seconds, or null, not {value!r}")
    if value is not None and value <= 0:
        raise ConfigError(f"launcher.{key} must be greater than zero, not {value}")
    return value
