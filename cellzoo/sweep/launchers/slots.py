"""The slots for jobs on this machine: groups of GPUs, or shares of its processors."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cellzoo.config import schema
from cellzoo.config.checks import ConfigError
from cellzoo.config.identity import world_size
from cellzoo.sweep.launchers.process import thread_environment
from cellzoo.sweep.settings import whole_number


@dataclass(frozen=True)
class Room:
    """The room for jobs on this machine.

    Attributes:
        slots: the environment of each slot, which names its devices.
        threads: the environment of every process, which sets its number of threads.
        description: both in a line.
    """

    slots: list[Mapping[str, str]]
    threads: Mapping[str, str]
    description: str


def find_room(settings: schema.Pool, trainer: schema.Trainer) -> Room:
    """Return the slots that a pool's settings make of this machine.

    Raises:
        ConfigError: a setting is invalid, or no slot is large enough for a job.
    """
    ranks = world_size(trainer)
    gpus = _gpus(settings.gpus, trainer)
    if gpus:
        return _room_of_gpus(settings, trainer, gpus, ranks)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jobs = settings.jobs if settings.jobs != "auto" else max(1, (cores or 1) // ranks)
    jobs = whole_number("launcher.jobs", jobs)
    threads = _threads(settings, jobs * ranks)
    share = _count(int(threads["OMP_NUM_THREADS"]), "thread")
    return Room([{}] * jobs, threads, f"{_count(jobs, 'job')} at once, {share} a process")


def _room_of_gpus(
    settings: schema.Pool, trainer: schema.Trainer, gpus: list[str], ranks: int
) -> Room:
    size = settings.gpus_per_job
    size = ranks if size == "auto" else whole_number("launcher.gpus_per_job", size)
    if trainer.accelerator != "cpu" and ranks > size:
        raise ConfigError(
            f"trainer.devices={ranks} does not fit launcher.gpus_per_job={size}: "
            f"say launcher.gpus_per_job={ranks}"
        )
    groups = [gpus[i : i + size] for i in range(0, len(gpus) - size + 1, size)]
    if not groups:
        raise ConfigError(f"launcher.gpus_per_job={size}, and there are {len(gpus)} GPUs")
    shared = whole_number("launcher.jobs_per_gpu", settings.jobs_per_gpu)
    threads = _threads(settings, len(groups) * size * shared)
    # Every group gets its first job before any group gets its second.
    visible = [",".join(group) for _ in range(shared) for group in groups]
    idle = len(gpus) - len(groups) * size
    text = f"{_count(len(groups), 'group')} of {_count(size, 'GPU')}"
    text += f", {shared} jobs each" if shared > 1 else ""
    text += f"; {_count(idle, 'GPU')} stay idle" if idle else ""
    return Room([{"CUDA_VISIBLE_DEVICES": group} for group in visible], threads, text)


def _gpus(setting: Any, trainer: schema.Trainer) -> list[str]:
    if setting is not None and setting != "auto":
        listed = setting if isinstance(setting, list) else [setting]
        gpus = [str(gpu) for gpu in listed]
        if len(set(gpus)) < len(gpus):
            raise ConfigError(f"launcher.gpus names a GPU twice: {setting}")
        return gpus
    if trainer.accelerator == "cpu" or setting is None:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def _threads(settings: schema.Pool, processes: int) -> dict[str, str]:
    number = settings.threads
    if number == "auto":
        shared_out = max(1, (os.cpu_count() or 1) // processes)
        number = int(os.environ.get("OMP_NUM_THREADS") or shared_out)
    return thread_environment(whole_number("launcher.threads", number))


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" + ("s" if number != 1 else "")
