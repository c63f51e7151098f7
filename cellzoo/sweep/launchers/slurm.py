"""The launcher `slurm`: job arrays, by submitit.

The sweep's process waits for its jobs. If it ends, the jobs stay in Slurm, and the same command
finds them there. A job that Slurm preempts, or that reaches its time limit, writes a checkpoint
and is requeued; it then resumes.
"""

import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cellzoo.config import schema
from cellzoo.config.checks import ConfigError
from cellzoo.sweep.launchers.base import Outcome
from cellzoo.sweep.launchers.job import Job
from cellzoo.sweep.launchers.remote import KILLED, resources, run_process
from cellzoo.sweep.launchers.retry import STOPPED, Retries, RunningJob, judge
from cellzoo.sweep.settings import whole_number
from cellzoo.system.files import write_whole

CLUSTERS = ("slurm", "local")
WARNING = 90  # seconds between SIGUSR2 and a job's time limit
PATIENCE = 30.0  # seconds until a shared file system shows the files of an ended job


@dataclass
class SubmittedJob(RunningJob):
    """A job that was submitted to Slurm.

    Attributes:
        id: Slurm's number of the element of an array.
        handle: submitit's job; None if an earlier process of the sweep submitted it.
        gone: since when Slurm does not list it, in seconds since the epoch.
    """

    id: str = ""
    handle: Any = None
    gone: float | None = None


class RemoteJob:
    """The function of a Slurm job; a class, because submitit pickles it.

    Args:
        environment: variables beside Slurm's.
        requeues: how often the job may be requeued.
    """

    def __init__(self, environment: Mapping[str, str], requeues: int) -> None:
        self.environment = dict(environment)
        self.requeues = requeues

    def __call__(self, order: str, log: str) -> int:
        """Run an order, and return its exit status."""
        code = run_process(order, log, self.environment)
        job = os.environ.get("SLURM_JOB_ID")
        requeue = int(os.environ.get("SLURM_RESTART_COUNT") or 0) < self.requeues
        if job and requeue and code in (*STOPPED, -signal.SIGTERM):
            subprocess.run(["scontrol", "requeue", job], check=True)
            time.sleep(PATIENCE)  # Slurm ends this process
        return code


class SlurmLauncher:
    """A `Launcher` of Slurm jobs."""

    def __init__(self, settings: schema.Slurm, trainer: schema.Trainer) -> None:
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                "launcher=slurm requires submitit: pip install 'cellzoo[slurm]'"
            ) from None
        if settings.cluster not in CLUSTERS:
            raise ConfigError(f"launcher.cluster is slurm or local, not {settings.cluster!r}")
        self.settings = settings
        self.slots = whole_number("launcher.jobs", settings.jobs)
        self._retries = Retries(settings.retries)
        self._requeues = whole_number("launcher.requeues", settings.requeues, least=0)
        cpus, gpus, self._threads = resources(settings, trainer)
        self._parameters = {
            "name": "cellzoo",
            "timeout_min": math.ceil(settings.time),
            "cpus_per_task": cpus,
            "gpus_per_node": whole_number("launcher.gpus", gpus, least=0) or None,
            "slurm_mem": settings.mem,
            "slurm_partition": settings.partition,
            "slurm_account": settings.account,
            "slurm_qos": settings.qos,
            "slurm_constraint": settings.constraint,
            "slurm_setup": settings.setup,
            "slurm_additional_parameters": {"requeue": True, **(settings.extra or {})},
            "slurm_signal_delay_s": WARNING,
            "slurm_array_parallelism": self.slots,
        }
        self._submitit = submitit
        self._submitted: dict[str, SubmittedJob] = {}

    def start(self, environment: Mapping[str, str]) -> None:
        """Look for Slurm.

        Raises:
            ConfigError: squeue does not answer.
        """
        self._environment = {**environment, **self._threads}
        try:
            self._queue()
        except (OSError, subprocess.CalledProcessError) as error:
            message = (getattr(error, "stderr", "") or str(error)).strip()
            raise ConfigError(f"launcher=slurm: squeue does not answer: {message}") from None

    def describe(self) -> str:
        """Return the place where jobs run, in a line."""
        partition = self.settings.partition
        place = f"Slurm{f', partition {partition}' if partition else ''}"
        if self.settings.cluster == "local":
            place = "processes of this machine, in Slurm's place"
        return f"{place}; {self.slots} jobs at once"

    def run(self, jobs: Iterator[Job]) -> Iterator[Outcome]:
        """Submit jobs while slots are free, and yield each outcome as a job ends."""
        queue = self._queue()
        while True:
            batch: list[Job] = []
            while len(self._submitted) + len(batch) < self.slots:
                job = self._retries.next_job(jobs)
                if job is None:
                    break
                batch.append(job)
            self._submit(batch, queue)
            if not self._submitted:
                return
            for attempt, code in self._ended():
                del self._submitted[attempt.id]
                _id_file(attempt.job).unlink(missing_ok=True)
                outcome = self._retries.outcome(attempt, code)
                if outcome is not None:
                    yield outcome
            if self._submitted:
                time.sleep(self.settings.poll)

    def close(self) -> None:
        """Leave the jobs to Slurm: the same command finds them there."""
        if self.settings.cluster == "local":
            for attempt in self._submitted.values():
                attempt.handle.cancel()
        elif self._submitted:
            ids = " ".join(sorted({element.split("_")[0] for element in self._submitted}))
            print(f"{len(self._submitted)} jobs stay in Slurm; to end them: scancel {ids}")

    def _submit(self, batch: list[Job], queue: set[str]) -> None:
        """Submit jobs as one array, but for those that an earlier process submitted."""
        new = []
        for attempt in map(SubmittedJob, batch):
            path = _id_file(attempt.job)
            known = path.read_text() if path.exists() else ""
            if known in queue:
                attempt.id = known
                self._submitted[known] = attempt
            else:
                new.append(attempt)
        if not new:
            return
        folder = new[0].job.sweep / "jobs" / "slurm"
        executor = self._submitit.AutoExecutor(folder, self.settings.cluster)
        set_ones = {key: value for key, value in self._parameters.items() if value is not None}
        executor.update_parameters(**set_ones)
        handles = executor.map_array(
            RemoteJob(self._environment, self._requeues),
            [str(attempt.job.order.resolve()) for attempt in new],
            [str(attempt.job.log.resolve()) for attempt in new],
        )
        for attempt, handle in zip(new, handles, strict=True):
            attempt.handle, attempt.id = handle, handle.job_id
            write_whole(_id_file(attempt.job), partial(Path.write_text, data=attempt.id))
            self._submitted[attempt.id] = attempt

    def _ended(self) -> list[tuple[SubmittedJob, int]]:
        """Return the jobs that ended, with their exit statuses."""
        ended = []
        queue = self._queue()
        for attempt in self._submitted.values():
            if self.settings.cluster == "local":
                if attempt.handle.done():
                    ended.append((attempt, _exit_status(attempt.handle)))
            elif attempt.id in queue:
                attempt.gone = None
            else:
                attempt.gone = attempt.gone or time.time()
                # It left a result, which may become visible later; or it was killed.
                finished = judge(attempt, KILLED).result is not None
                if finished or time.time() - attempt.gone > PATIENCE:
                    ended.append((attempt, KILLED))
        return ended

    def _queue(self) -> set[str]:
        """Return this user's queued and running elements of arrays, as 12_3, or 12."""
        if self.settings.cluster == "local":
            return set()
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return set(done.stdout.split())


def _exit_status(handle: Any) -> int:
    try:
        return int(handle.result())
    except Exception:  # it was killed and left no result
        return KILLED


def _id_file(job: Job) -> Path:
    """Return the file with a job's number in Slurm."""
    return job.order.with_suffix(".slurm")
