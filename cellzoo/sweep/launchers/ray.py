"""The launcher `ray`: jobs as tasks of a Ray cluster of one or more machines."""

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cellzoo.config import schema
from cellzoo.config.checks import ConfigError
from cellzoo.sweep.launchers.base import Outcome
from cellzoo.sweep.launchers.job import Job
from cellzoo.sweep.launchers.remote import KILLED, resources, run_process
from cellzoo.sweep.launchers.retry import Retries, RunningJob

PATIENCE = 60.0  # seconds until a node must answer


class RayLauncher:
    """A `Launcher` of Ray tasks."""

    def __init__(self, settings: schema.Ray, trainer: schema.Trainer) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError("launcher=ray requires Ray: pip install 'cellzoo[ray]'") from None
        self._ray: Any = ray
        self._address = settings.address
        self._retries = Retries(settings.retries)
        self._cpus, gpus, self._threads = resources(settings, trainer)
        if isinstance(gpus, bool | str) or gpus < 0:
            raise ConfigError(f"launcher.gpus is a number, 0.5 for two jobs a GPU, not {gpus!r}")
        self._gpus = gpus
        self._tasks: dict[Any, RunningJob] = {}

    @property
    def slots(self) -> int:
        """Return the number of jobs for which the cluster has room now."""
        room = self._ray.cluster_resources()
        number = room.get("CPU", 0) / self._cpus
        if self._gpus:
            number = min(number, room.get("GPU", 0) / self._gpus)
        return int(number)

    def start(self, environment: Mapping[str, str]) -> None:
        """Join the cluster.

        Raises:
            ConfigError: the cluster does not answer, or has no room for a job.
        """
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            _check_answers(self._address)
            self._ray.init(address=self._address, log_to_driver=False, logging_level="error")
        except (OSError, ValueError, RuntimeError) as error:
            message = str(error).splitlines()[0]
            raise ConfigError(f"launcher=ray: no cluster at {self._address}: {message}") from None
        if not self.slots:
            room = {k: v for k, v in self._ray.cluster_resources().items() if k in ("CPU", "GPU")}
            needed = f"{self._cpus} CPUs" + (f" and {self._gpus} GPUs" if self._gpus else "")
            raise ConfigError(f"launcher=ray: a job requires {needed}, and the cluster has {room}")
        self._environment = {**environment, **self._threads}
        self._run = self._ray.remote(
            num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0, name="cellzoo"
        )(run_process)

    def describe(self) -> str:
        """Return the place where jobs run, in a line."""
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        return f"Ray, {nodes} node{'s' if nodes != 1 else ''}; {self.slots} jobs at once"

    def run(self, jobs: Iterator[Job]) -> Iterator[Outcome]:
        """Submit jobs while the cluster has room, and yield each outcome as a job ends."""
        checked = False
        while True:
            while len(self._tasks) < max(1, self.slots):
                job = self._retries.next_job(jobs)
                if job is None:
                    break
                if not checked:
                    self._check_folder(job.sweep)
                    checked = True
                attempt = RunningJob(job)
                order, log = str(job.order.resolve()), str(job.log.resolve())
                self._tasks[self._run.remote(order, log, self._environment)] = attempt
            if not self._tasks:
                return
            (ended, *_), _ = self._ray.wait(list(self._tasks))
            outcome = self._retries.outcome(self._tasks.pop(ended), self._exit_status(ended))
            if outcome is not None:
                yield outcome

    def close(self) -> None:
        """Cancel the jobs, which write checkpoints, and leave the cluster."""
        for reference in self._tasks:
            self._ray.cancel(reference)
        if self._tasks:
            self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=PATIENCE)
        self._ray.shutdown()

    def _exit_status(self, reference: Any) -> int:
        """Return the exit status of a task; KILLED if its node or worker died."""
        try:
            return int(self._ray.get(reference))
        except self._ray.exceptions.RayError:
            return KILLED

    def _check_folder(self, folder: Path) -> None:
        """Refuse a cluster with a node that does not see the sweep's directory.

        Raises:
            ConfigError: names the nodes.
        """
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        is_folder = self._ray.remote(num_cpus=0, max_retries=0)(os.path.isdir)
        blind = []
        for node in self._ray.nodes():
            if node["Alive"]:
                here = is_folder.options(scheduling_strategy=strategy(node["NodeID"], soft=False))
                try:
                    sees = self._ray.get(here.remote(str(folder.resolve())), timeout=PATIENCE)
                except self._ray.exceptions.RayError:
                    sees = False
                blind += [] if sees else [node["NodeManagerHostname"]]
        if blind:
            raise ConfigError(
                f"launcher=ray: {', '.join(blind)} does not see {folder.resolve()}: "
                "all nodes must share a file system"
            )


def _check_answers(address: str | None) -> None:
    """Connect to HOST:PORT once; Ray itself would try for minutes.

    Raises:
        OSError: nothing listens there.
    """
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
