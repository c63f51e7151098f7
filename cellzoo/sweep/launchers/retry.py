"""The retry policy of all launchers.

A job is retried if its attempt says nothing about its run: a signal ended it, memory was
exhausted, or another process held the run. The retry resumes from the last checkpoint. A run that
diverged or raised an exception is not retried.
"""

import signal
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cellzoo.run.directory import read_result, write_result
from cellzoo.run.result import ENDED, RunResult, Status
from cellzoo.run.train import blank_result
from cellzoo.sweep.launchers.base import Outcome
from cellzoo.sweep.launchers.job import LOCKED, Job
from cellzoo.sweep.record import log_attempt
from cellzoo.sweep.settings import whole_number

OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "can't allocate memory")
STOPPED = {130: signal.SIGINT, 143: signal.SIGTERM}  # exit statuses of runs that a signal stopped
PAUSE = 1.0  # seconds before a run that another process holds is retried


@dataclass
class RunningJob:
    """A job that a launcher started.

    Attributes:
        job: the job.
        slot: the number of its slot, for attempts.csv.
        started: when, in seconds since the epoch.
        before: when result.json was last written before the start, in ns; None: never.
    """

    job: Job
    slot: int = 0
    started: float = field(default_factory=time.time)
    before: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.before = _written(self.job.directory)


@dataclass(frozen=True)
class Verdict:
    """The judgement of an attempt that ended: one of the two attributes.

    Attributes:
        result: the result of the run, if the run has ended.
        retry_reason: the reason why the attempt says nothing about the run.
    """

    result: RunResult | None = None
    retry_reason: str | None = None


def judge(attempt: RunningJob, code: int) -> Verdict:
    """Judge an attempt by its exit status and by result.json.

    Args:
        attempt: the job that ended.
        code: the exit status of its process, or minus the signal that killed it.
    """
    job = attempt.job
    if code == LOCKED:
        return Verdict(retry_reason=_last_line(job) or "another process runs it")
    # An older result.json is of an earlier attempt.
    new = _written(job.directory) != attempt.before
    result = read_result(job.directory) if new else None
    if result is not None and result.status in (*ENDED, Status.PRUNED, Status.FAILED):
        exhausted = any(sign in str(result.reason) for sign in OUT_OF_MEMORY)
        return Verdict(retry_reason=result.reason) if exhausted else Verdict(result)
    if code < 0 or code in STOPPED:
        number = STOPPED.get(code, -code)
        return Verdict(retry_reason=f"killed by {signal.Signals(number).name}")
    reason = f"ended without a result (exit status {code})"
    return Verdict(_failed(job, ": ".join(filter(None, (reason, _last_line(job))))))


class Retries:
    """The jobs that wait for a retry, and the number of attempts at each job.

    Args:
        limit: retries of a job, the setting `launcher.retries`.
        locked_limit: retries of a job that another process holds, which then do not count
            against `limit`; None: they count.

    Raises:
        ConfigError: `limit` is not a whole number from 0 on.
    """

    def __init__(self, limit: int, locked_limit: int | None = None) -> None:
        self._limit = whole_number("launcher.retries", limit, least=0)
        self._locked_limit = locked_limit
        self._waiting: deque[tuple[float, Job]] = deque()  # each with the time of its retry
        self._attempts: Counter[Path] = Counter()
        self._locked: Counter[Path] = Counter()

    @property
    def due(self) -> float | None:
        """Return the time of the next retry, in seconds since the epoch; None: none waits."""
        return min((moment for moment, _ in self._waiting), default=None)

    def next_job(self, jobs: Iterator[Job]) -> Job | None:
        """Return a retry that is due, else the next new job, its order written; None if neither."""
        now = time.time()
        for entry in self._waiting:
            if entry[0] <= now:
                self._waiting.remove(entry)
                return entry[1]
        job = next(jobs, None)
        if job is not None:
            job.write_order()
        return job

    def outcome(
        self, attempt: RunningJob, code: int, timed_out: str | None = None
    ) -> Outcome | None:
        """Record an attempt that ended, and return the outcome of its job; None: it is retried.

        Args:
            attempt, code: as for `judge`.
            timed_out: the reason if the launcher ended the attempt; the job then failed.
        """
        job, verdict = attempt.job, judge(attempt, code)
        result, reason = verdict.result, str(verdict.retry_reason)
        if result is None and timed_out:
            result = _failed(job, timed_out)
        number = self._attempts[job.directory] + 1
        end = verdict.retry_reason or "ended"
        log_attempt(job.sweep, job.run, number, attempt.slot, attempt.started, end)
        if result is not None:
            return Outcome(job, result)
        if code == LOCKED and self._locked_limit is not None:
            count, limit, pause = self._locked, self._locked_limit, PAUSE
        else:
            count, limit, pause = self._attempts, self._limit, 0.0
        count[job.directory] += 1
        if count[job.directory] <= limit:
            self._waiting.append((time.time() + pause, job))
            return None
        if code == LOCKED:
            return Outcome(job, _running_elsewhere(job, reason))
        return Outcome(job, _failed(job, f"{reason}, {number} times" if number > 1 else reason))


def _written(directory: Path) -> int | None:
    """Return when result.json was last written, in ns; None: never."""
    path = directory / "result.json"
    return path.stat().st_mtime_ns if path.exists() else None


def _failed(job: Job, reason: str) -> RunResult:
    """Record that a run failed, where its own process could not."""
    result = read_result(job.directory) or blank_result(job.config)
    result.status, result.reason = Status.FAILED, reason
    if result.attempts:
        result.attempts[-1].ended = result.outcome
    write_result(job.directory, result)
    return result


def _running_elsewhere(job: Job, reason: str) -> RunResult:
    """Return the result of a run that another process holds."""
    result = read_result(job.directory) or blank_result(job.config)
    return replace(result, status=Status.RUNNING, reason=reason)


def _last_line(job: Job) -> str | None:
    lines = job.log.read_text(errors="replace").split("\n") if job.log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
