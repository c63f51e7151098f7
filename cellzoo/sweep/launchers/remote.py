"""The parts that launchers for other machines share.

All machines see one file system, with the sweep's directory at one path.
"""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType

from cellzoo.config import schema
from cellzoo.config.identity import world_size
from cellzoo.sweep.launchers.process import command_line, thread_environment
from cellzoo.sweep.settings import whole_number
from cellzoo.system.signals import handling

GRACE = 60.0  # seconds between SIGTERM and SIGKILL
KILLED = -9  # the exit status that a job gets if its process left none


def resources(
    settings: schema.Slurm | schema.Ray, trainer: schema.Trainer
) -> tuple[int, float | str, dict[str, str]]:
    """Return the CPUs and GPUs of a job, and the environment that shares its CPUs out to ranks.

    Raises:
        ConfigError: `launcher.cpus` is not a whole number.
    """
    ranks, cpus, gpus = world_size(trainer), settings.cpus, settings.gpus
    cpus = ranks if cpus == "auto" else whole_number("launcher.cpus", cpus)
    if gpus == "auto":
        gpus = 0 if trainer.accelerator == "cpu" else ranks
    return cpus, gpus, thread_environment(max(1, cpus // ranks))


def run_process(order: str, log: str, environment: Mapping[str, str]) -> int:
    """Run a job's order in a process of its own, and wait for it.

    SIGTERM, Slurm's warning SIGUSR2 and an interruption are passed on to it as SIGTERM: it writes a
    checkpoint and ends.

    Args:
        order, log: paths of the order and of the file for the output.
        environment: variables beside those of this process.

    Returns:
        The exit status, or minus the signal that killed it.
    """
    # Lightning would take a process with these variables for a rank that Slurm started.
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_NTASKS")}
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command_line(order),
            env={**env, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def pass_on(number: int, frame: FrameType | None) -> None:
        _signal_group(process, signal.SIGTERM)

    try:
        with handling((signal.SIGTERM, signal.SIGUSR2), pass_on):
            return process.wait()
    except BaseException:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        raise
    finally:
        _signal_group(process, signal.SIGKILL)  # processes that the job left running
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
