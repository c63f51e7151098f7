"""The origin of a recorded time: the machine, the versions and the day."""

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cellzoo.names.version import __version__


def machine(device: torch.device) -> dict[str, str | int]:
    """Return the columns for the machine, the versions and the day."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "device": _device(device),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cellzoo": __version__,
    }


def describe(row: Mapping[Any, Any]) -> str:
    """Return the machine, the versions and the day on one line."""
    return (
        f"{row['processor']}, {row['cores']} cores, {row['threads']} threads; "
        f"{row['system']}; python {row['python']}, torch {row['torch']}, "
        f"cellzoo {row['cellzoo']}; {row['date']}"
    )


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _processor() -> str:
    """Return the processor's name; on Linux, platform.processor does not return it."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()
