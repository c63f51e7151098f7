"""The launcher `pool`: a process for each job, as many at once as there are slots.

The slots share one queue: a free slot takes the next job.
"""

import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping

from cellzoo.config import schema
from cellzoo.config.checks import ConfigError
from cellzoo.sweep.launchers.base import Outcome
from cellzoo.sweep.launchers.job import Job
from cellzoo.sweep.launchers.retry import Retries, RunningJob
from cellzoo.sweep.launchers.server import Server, ServerError
from cellzoo.sweep.launchers.slots import find_room

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
LOCKED_RETRIES = 5
SERVER_RESTARTS = 3
STARTS = ("auto", "fork", "spawn")


class PoolLauncher:
    """A `Launcher` of processes on this machine."""

    def __init__(self, settings: schema.Pool, trainer: schema.Trainer) -> None:
        self.room = find_room(settings, trainer)
        self.timeout = settings.timeout
        if self.timeout is not None and self.timeout <= 0:
            raise ConfigError(f"launcher.timeout must be greater than zero, not {self.timeout:g}")
        self._retries = Retries(settings.retries, LOCKED_RETRIES)
        if settings.start not in STARTS:
            raise ConfigError(
                f"launcher.start is one of {', '.join(STARTS)}, not {settings.start!r}"
            )
        self._start = settings.start
        self._environment: Mapping[str, str] = {}
        self._server = Server(self._start, self.room.threads)  # imports while jobs are composed
        self._free = deque(range(self.slots))
        self._running: dict[int, RunningJob] = {}
        self._overdue: set[int] = set()  # numbers of jobs that were sent SIGTERM
        self._started = 0
        self._restarts = 0

    @property
    def slots(self) -> int:
        """Return the number of jobs that run at once."""
        return len(self.room.slots)

    def start(self, environment: Mapping[str, str]) -> None:
        """Have the server load the plugins."""
        self._environment = environment
        self._server.prepare(environment)

    def describe(self) -> str:
        """Return the slots and the way to start jobs, in a line; wait until the server knows."""
        (ready,) = self._server.messages(None)
        reason = f" ({ready['reason']})" if ready["reason"] else ""
        return f"{self.room.description}; started by {ready['ready']}{reason}"

    def run(self, jobs: Iterator[Job]) -> Iterator[Outcome]:
        """Run the jobs, and yield each outcome as a job ends."""
        while True:
            jobs_remain = self._fill(jobs)
            if not self._running and self._retries.due is None and not jobs_remain:
                return
            for number, code in self._ended():
                attempt = self._running.pop(number)
                timed_out = f"timed out after {self.timeout:g} s" if number in self._overdue else ""
                outcome = self._retries.outcome(attempt, code, timed_out)
                log = attempt.job.log
                if log.exists() and not log.stat().st_size:
                    log.unlink()
                self._free.append(attempt.slot)
                if outcome is not None:
                    yield outcome
            self._end_overdue()

    def close(self) -> None:
        """End the jobs, by SIGTERM first: they write checkpoints. Then end the server."""
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
        """Start jobs while slots are free. Return whether new jobs may remain."""
        while self._free:
            job = self._retries.next_job(jobs)
            if job is None:
                return False
            attempt = RunningJob(job, self._free.popleft())
            self._started += 1
            self._running[self._started] = attempt
            environment = self.room.slots[attempt.slot]
            self._server.start(self._started, job.order, job.log, environment)
        return True

    def _ended(self) -> Iterator[tuple[int, int]]:
        """Yield the numbers and exit statuses of jobs that end until the next deadline."""
        try:
            for message in self._server.messages(self._patience()):
                if "ended" in message:
                    yield message["ended"], message["code"]
        except ServerError:
            self._restarts += 1
            if self._restarts > SERVER_RESTARTS:
                raise
            for number in list(self._running):  # they ended with their server
                yield number, -signal.SIGKILL
            self._server.close()
            self._server = Server(self._start, self.room.threads)
            self._server.prepare(self._environment)

    def _patience(self) -> float | None:
        """Return the seconds until the next retry or time limit; None: there is none."""
        retry = self._retries.due if self._free else None
        limits = [self._limit(number) for number in self._running]
        times = [moment for moment in (retry, *limits) if moment is not None]
        return max(0.0, min(times) - time.time()) + 0.01 if times else None

    def _limit(self, number: int) -> float | None:
        """Return the time limit of a job, in seconds since the epoch; after SIGTERM, extended."""
        if self.timeout is None:
            return None
        extension = GRACE if number in self._overdue else 0
        return self._running[number].started + self.timeout + extension

    def _end_overdue(self) -> None:
        for number in self._running:
            limit = self._limit(number)
            if limit is not None and time.time() >= limit:
                overdue = number in self._overdue
                self._server.signal(number, signal.SIGKILL if overdue else signal.SIGTERM)
                self._overdue.add(number)
