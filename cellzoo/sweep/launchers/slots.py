"""Where jobs can run on this machine: groups of GPUs, or shares of its processors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cellzoo.config.compose import ConfigError, ranks
from cellzoo.sweep.settings import thread_environment, whole_number


@dataclass(frozen=True)
class Slot:
    """Room for one job: what its environment says of devices."""

    number: int
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Room:
    """All slots, the threads of every process, and in a line what they are."""

    slots: list[Slot]
    threads: Mapping[str, str]
    description: str


def find_room(settings: Mapping[str, Any], trainer: Mapping[str, Any]) -> Room:
    """The slots that a launcher's settings make of this machine.

    Raises:
        ConfigError: settings that make none, or none that a job fits in.
    """
    wanted = ranks(trainer)
    gpus = _gpus(settings["gpus"], trainer)
    if gpus:
        return _by_gpu(settings, trainer, gpus, wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    number = settings["jobs"]
    if number == "auto":
        number = max(1, (cores or 1) // wanted)
    number = whole_number("launcher.jobs", number)
    threads = _threads(settings, number * wanted)
    each = _count(int(threads["OMP_NUM_THREADS"]), "thread")
    text = f"{_count(number, 'job')} at once, {each} a process"
    return Room([Slot(i, {}) for i in range(number)], threads, text)


def _by_gpu(
    settings: Mapping[str, Any], trainer: Mapping[str, Any], gpus: list[str], wanted: int
) -> Room:
    each = settings["gpus_per_job"]
    each = wanted if each == "auto" else whole_number("launcher.gpus_per_job", each)
    if trainer["accelerator"] != "cpu" and wanted > each:
        raise ConfigError(
            f"trainer.devices={wanted} does not fit launcher.gpus_per_job={each}: "
            f"say launcher.gpus_per_job={wanted}"
        )
    groups = [gpus[i : i + each] for i in range(0, len(gpus) - each + 1, each)]
    if not groups:
        raise ConfigError(f"launcher.gpus_per_job={each}, and there are {len(gpus)} GPUs")
    shared = whole_number("launcher.jobs_per_gpu", settings["jobs_per_gpu"])
    threads = _threads(settings, len(groups) * each * shared)
    # A group's second job comes after every group's first.
    visible = [",".join(group) for _ in range(shared) for group in groups]
    slots = [Slot(i, {"CUDA_VISIBLE_DEVICES": one}) for i, one in enumerate(visible)]
    idle = len(gpus) - len(groups) * each
    text = f"{_count(len(groups), 'group')} of {_count(each, 'GPU')}"
    text += f", {shared} jobs each" if shared > 1 else ""
    return Room(slots, threads, text + (f"; {_count(idle, 'GPU')} stay idle" if idle else ""))


def _gpus(said: Any, trainer: Mapping[str, Any]) -> list[str]:
    if said is not None and said != "auto":
        listed = said if isinstance(said, list) else [said]
        gpus = [str(gpu) for gpu in listed]
        if len(set(gpus)) < len(gpus):
            raise ConfigError(f"launcher.gpus names a GPU twice: {said}")
        return gpus
    if trainer["accelerator"] == "cpu" or said is None:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [each.strip() for each in visible.split(",") if each.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def _threads(settings: Mapping[str, Any], processes: int) -> dict[str, str]:
    number = settings["threads"]
    if number == "auto":
        number = os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // processes)
    return thread_environment(whole_number("launcher.threads", int(number)))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")
