"""The launcher `ray`: jobs as tasks of a Ray cluster of one machine or many."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellzoo.config.compose import ConfigError, ranks
from cellzoo.sweep.launchers.base import Outcome, written
from cellzoo.sweep.launchers.far import Tries, run_there
from cellzoo.sweep.launchers.job import Job
from cellzoo.sweep.settings import retries, thread_environment, whole_number

PATIENCE = 60.0  # seconds for a node to answer


@dataclass
class Task:
    """A job in Ray's hands."""

    job: Job
    before: int | None
    started: float


class Ray:
    """See `launcher.Launcher`."""

    def __init__(self, settings: Mapping[str, Any], trainer: Mapping[str, Any]) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError("launcher=ray wants Ray: pip install 'cellzoo[ray]'") from None
        self._ray = ray
        self._address = settings["address"]
        self._tries = Tries(retries(settings["retries"]))
        number = ranks(trainer)
        cpus, gpus = settings["cpus"], settings["gpus"]
        cpus = number if cpus == "auto" else whole_number("launcher.cpus", cpus)
        if gpus == "auto":
            gpus = 0 if trainer["accelerator"] == "cpu" else number
        if isinstance(gpus, bool) or not isinstance(gpus, int | float) or gpus < 0:
            raise ConfigError(f"launcher.gpus is a number, 0.5 for two jobs a GPU, not {gpus!r}")
        self._threads = thread_environment(max(1, cpus // number))
        self._cpus, self._gpus = cpus, gpus
        self._waiting: deque[Job] = deque()  # for another try
        self._there: dict[Any, Task] = {}

    @property
    def slots(self) -> int:
        """How many jobs the cluster has room for now."""
        room = self._ray.cluster_resources()
        number = room.get("CPU", 0) / self._cpus
        if self._gpus:
            number = min(number, room.get("GPU", 0) / self._gpus)
        return int(number)

    def start(self, environment: Mapping[str, str]) -> None:
        """Join the cluster.

        Raises:
            ConfigError: it does not answer, or has no room for a job.
        """
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            _check_answers(self._address)
            self._ray.init(address=self._address, log_to_driver=False, logging_level="error")
        except (OSError, ValueError, RuntimeError) as error:
            said = str(error).splitlines()[0]
            raise ConfigError(f"launcher=ray: no cluster at {self._address}: {said}") from None
        if not self.slots:
            there = {k: v for k, v in self._ray.cluster_resources().items() if k in ("CPU", "GPU")}
            wanted = f"{self._cpus} CPUs" + (f" and {self._gpus} GPUs" if self._gpus else "")
            raise ConfigError(f"launcher=ray: a job wants {wanted}, and the cluster has {there}")
        self._environment = {**environment, **self._threads}
        self._run = self._ray.remote(
            num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0, name="cellzoo"
        )(run_there)

    def describe(self) -> str:
        """Where jobs run, in a line."""
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        return f"Ray, {nodes} node{'s' if nodes != 1 else ''}; {self.slots} jobs at once"

    def run(self, jobs: Iterator[Job]) -> Iterator[Outcome]:
        """Hand jobs to Ray while there is room, and yield each one's outcome as it ends."""
        seen = False
        while True:
            while len(self._there) < max(1, self.slots):
                job = self._waiting.popleft() if self._waiting else next(jobs, None)
                if job is None:
                    break
                if not seen:
                    self._check_folder(job.sweep)
                    seen = True
                job.write_order()
                task = Task(job, written(job.directory), time.time())
                order, log = str(job.order.resolve()), str(job.log.resolve())
                self._there[self._run.remote(order, log, self._environment)] = task
            if not self._there:
                return
            (ended, *_), _ = self._ray.wait(list(self._there))
            task, code = self._there.pop(ended), self._code(ended)
            outcome = self._tries.outcome(task.job, code, task.before, 0, task.started)
            if outcome is None:
                self._waiting.append(task.job)
            else:
                yield outcome

    def close(self) -> None:
        """Ask what runs to end, so that it writes where to go on from; leave the cluster."""
        for reference in self._there:
            self._ray.cancel(reference)
        if self._there:
            self._ray.wait(list(self._there), num_returns=len(self._there), timeout=PATIENCE)
        self._ray.shutdown()

    def _code(self, reference: Any) -> int:
        """A task's exit status; where its node or worker died, that of a killed process."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError:
            return -9

    def _check_folder(self, folder: Path) -> None:
        """Refuse a cluster whose nodes do not all see the sweep's directory.

        Raises:
            ConfigError: which do not.
        """
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        look = self._ray.remote(num_cpus=0, max_retries=0)(os.path.isdir)
        blind = []
        for node in self._ray.nodes():
            if node["Alive"]:
                there = look.options(scheduling_strategy=strategy(node["NodeID"], soft=False))
                try:
                    sees = self._ray.get(there.remote(str(folder.resolve())), timeout=PATIENCE)
                except self._ray.exceptions.RayError:
                    sees = False
                blind += [] if sees else [node["NodeManagerHostname"]]
        if blind:
            raise ConfigError(
                f"launcher=ray: {', '.join(blind)} does not see {folder.resolve()}: "
                "all nodes must share a file system"
            )


def _check_answers(address: str | None) -> None:
    """Look whether anybody is there; Ray itself would try for minutes.

    Raises:
        OSError: nobody is.
    """
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
