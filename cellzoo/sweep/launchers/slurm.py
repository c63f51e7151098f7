"""The launcher `slurm`: job arrays, by submitit.

The sweep's process waits for its jobs. If it ends, they go on in Slurm, and the same command finds
them there. A job that Slurm preempts, or whose time is nearly over, keeps a checkpoint and is put
back into the queue, where it goes on.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from cellzoo.config.compose import ConfigError, ranks
from cellzoo.sweep.launchers.base import STOPPED, Outcome, judge, written
from cellzoo.sweep.launchers.far import Tries, run_there
from cellzoo.sweep.launchers.job import Job
from cellzoo.sweep.settings import retries, thread_environment, whole_number
from cellzoo.system.files import write_whole

CLUSTERS = ("slurm", "local")
WARNING = 90  # seconds before a job's time is over: SIGUSR2
KILLED = -9  # the exit status of a job that left none
PATIENCE = 30.0  # seconds for a shared file system to show what an ended job wrote


@dataclass
class Submitted:
    """A job in Slurm's hands.

    Attributes:
        id: Slurm's, of the element of an array.
        handle: submitit's; None for a job of an earlier sweep's process.
        before: when result.json was written last, before it.
        started: when it was submitted.
        gone: since when Slurm does not know it.
    """

    job: Job
    id: str
    handle: Any
    before: int | None
    started: float = field(default_factory=time.time)
    gone: float | None = None


class FarEnd:
    """What a job of Slurm runs; a class, so that submitit can keep it on disk.

    Args:
        environment: what its environment has beside Slurm's.
        requeues: how often it may be put back into the queue.
    """

    def __init__(self, environment: Mapping[str, str], requeues: int) -> None:
        self.environment = dict(environment)
        self.requeues = requeues

    def __call__(self, order: str, log: str) -> int:
        """Run an order; returns its exit status."""
        code = run_there(order, log, self.environment)
        job = os.environ.get("SLURM_JOB_ID")
        again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) < self.requeues
        if job and again and code in (*STOPPED, -signal.SIGTERM):
            subprocess.run(["scontrol", "requeue", job], check=True)
            time.sleep(PATIENCE)  # Slurm ends this process
        return code


class Slurm:
    """See `launcher.Launcher`."""

    def __init__(self, settings: Mapping[str, Any], trainer: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                "launcher=slurm wants submitit: pip install 'cellzoo[slurm]'"
            ) from None
        self.cluster = settings["cluster"]
        if self.cluster not in CLUSTERS:
            raise ConfigError(f"launcher.cluster is slurm or local, not {self.cluster!r}")
        self.slots = whole_number("launcher.jobs", settings["jobs"])
        self.poll = float(settings["poll"])
        self._tries = Tries(retries(settings["retries"]))
        self._requeues = whole_number("launcher.requeues", settings["requeues"], least=0)
        number = ranks(trainer)
        cpus = settings["cpus"]
        cpus = number if cpus == "auto" else whole_number("launcher.cpus", cpus)
        gpus = settings["gpus"]
        if gpus == "auto":
            gpus = 0 if trainer["accelerator"] == "cpu" else number
        self._threads = thread_environment(max(1, cpus // number))
        self._resources = {
            "name": "cellzoo",
            "timeout_min": math.ceil(float(settings["time"])),
            "cpus_per_task": cpus,
            "gpus_per_node": whole_number("launcher.gpus", gpus, least=0) or None,
            "slurm_mem": settings["mem"],
            "slurm_partition": settings["partition"],
            "slurm_account": settings["account"],
            "slurm_qos": settings["qos"],
            "slurm_constraint": settings["constraint"],
            "slurm_setup": settings["setup"],
            "slurm_additional_parameters": {"requeue": True, **(settings["extra"] or {})},
            "slurm_signal_delay_s": WARNING,
            "slurm_array_parallelism": self.slots,
        }
        self._submitit = submitit
        self._waiting: deque[Job] = deque()  # for another try
        self._there: dict[str, Submitted] = {}

    def start(self, environment: Mapping[str, str]) -> None:
        """Find Slurm.

        Raises:
            ConfigError: there is none here.
        """
        self._environment = {**environment, **self._threads}
        if self.cluster == "slurm":
            try:
                _squeue()
            except (OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", "") or str(error)
                raise ConfigError(
                    f"launcher=slurm: squeue does not answer: {said.strip()}"
                ) from None

    def describe(self) -> str:
        """Where jobs run, in a line."""
        partition = self._resources["slurm_partition"]
        where = f"Slurm{f', partition {partition}' if partition else ''}"
        if self.cluster == "local":
            where = "processes of this machine, in Slurm's place"
        return f"{where}; {self.slots} jobs at once"

    def run(self, jobs: Iterator[Job]) -> Iterator[Outcome]:
        """Submit jobs while there is room, and yield each one's outcome as it ends."""
        known = _squeue() if self.cluster == "slurm" else set()
        while True:
            room = self.slots - len(self._there)
            batch = self._take(jobs, room)
            self._submit(batch, known)
            if not self._there:
                return
            for submitted, code in self._ended():
                del self._there[submitted.id]
                _id_file(submitted.job).unlink(missing_ok=True)
                outcome = self._tries.outcome(
                    submitted.job, code, submitted.before, 0, submitted.started
                )
                if outcome is None:
                    self._waiting.append(submitted.job)
                else:
                    yield outcome
            if self._there:
                time.sleep(self.poll)

    def close(self) -> None:
        """Leave what Slurm has to Slurm: the same command finds it there."""
        if self.cluster == "local":
            for submitted in self._there.values():
                submitted.handle.cancel()
        elif self._there:
            ids = " ".join(sorted({each.split("_")[0] for each in self._there}))
            print(f"{len(self._there)} jobs go on in Slurm; to end them: scancel {ids}")

    def _take(self, jobs: Iterator[Job], room: int) -> list[Job]:
        again = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        return [*again, *islice(jobs, room - len(again))]

    def _submit(self, batch: list[Job], known: set[str]) -> None:
        """Submit these as one array, but for those that an earlier process submitted."""
        new = []
        for job in batch:
            job.write_order()
            path = _id_file(job)
            before_us = path.read_text() if path.exists() else None
            if before_us in known:
                self._there[before_us] = Submitted(job, before_us, None, written(job.directory))
            else:
                new.append(job)
        if not new:
            return
        executor = self._submitit.AutoExecutor(new[0].sweep / "jobs" / "slurm", self.cluster)
        given = {key: value for key, value in self._resources.items() if value is not None}
        executor.update_parameters(**given)
        far_end = FarEnd(self._environment, self._requeues)
        before = [written(job.directory) for job in new]
        orders = [str(job.order.resolve()) for job in new]
        handles = executor.map_array(far_end, orders, [str(job.log.resolve()) for job in new])
        for job, handle, was in zip(new, handles, before, strict=True):
            write_whole(_id_file(job), partial(Path.write_text, data=handle.job_id))
            self._there[handle.job_id] = Submitted(job, handle.job_id, handle, was)

    def _ended(self) -> list[tuple[Submitted, int]]:
        """The jobs that ended, with their exit status."""
        ended = []
        queue = _squeue() if self.cluster == "slurm" else set()
        for each in list(self._there.values()):
            if self.cluster == "local":
                if each.handle.done():
                    ended.append((each, _code(each.handle)))
            elif each.id in queue:
                each.gone = None
            else:
                each.gone = each.gone or time.time()
                # It left a result, or was killed; a result may be seen a while later.
                found = judge(each.job, KILLED, each.before).result is not None
                if found or time.time() - each.gone > PATIENCE:
                    ended.append((each, KILLED))
        return ended


def _code(handle: Any) -> int:
    try:
        return handle.result()
    except Exception:  # killed: it left no result
        return KILLED


def _id_file(job: Job) -> Path:
    """Where a job's number in Slurm is kept."""
    return job.order.with_suffix(".slurm")


def _squeue() -> set[str]:
    """The elements of arrays that this user has in the queue or running, as in 12_3, or 12."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(said.stdout.split())
