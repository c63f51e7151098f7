"""What a recorded time is worth nothing without: the machine, the versions, the day."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import cellzoo


def machine(device: torch.device) -> dict[str, str | int]:
    """The columns that say where and by what this is measured."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "device": _device(device),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cellzoo": cellzoo.__version__,
    }


def in_words(found: Mapping[Any, Any]) -> str:
    """A machine on one line."""
    return (
        f"{found['processor']}, {found['cores']} cores, {found['threads']} threads; "
        f"{found['system']}; python {found['python']}, torch {found['torch']}, "
        f"cellzoo {found['cellzoo']}; {found['date']}"
    )


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _processor() -> str:
    """The processor's name, which platform.processor does not know on Linux."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()
