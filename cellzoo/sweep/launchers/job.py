"""A sweep's job: what is to be run and where, as a file that a process of its own can run.

`python -m cellzoo.sweep.launchers.job ORDER` runs one; the other ranks of a run on several devices
are started by the same command.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellzoo.config.compose import plugged
from cellzoo.names.plugins import code_hash, plugin_source
from cellzoo.run.directory import RunError
from cellzoo.run.ranks import end_with_parent
from cellzoo.run.train import train
from cellzoo.sweep.plans.optuna import pruner
from cellzoo.system.files import write_whole
from cellzoo.system.locks import LockedError

LOCKED = 75  # exit status: another process runs there (EX_TEMPFAIL)


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        number: its place in the sweep, from 1 on.
        said: the overrides that set it apart from the others.
        config: resolved.
        directory: the run's own.
        sweep: the sweep's directory.
        engine: what engine=auto was settled to be.
        trial: what a search wants its process to know (`optuna.pruner`).
    """

    number: int
    said: str
    config: Mapping[str, Any]
    directory: Path
    sweep: Path
    engine: str | None
    trial: Mapping[str, Any] | None = None

    @property
    def run(self) -> str:
        """The run's name within its sweep."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def order(self) -> Path:
        """The file that tells a process what to do."""
        return self.sweep / "jobs" / f"{self.run.replace('/', '-')}.json"

    @property
    def log(self) -> Path:
        """What its processes print."""
        return self.order.with_suffix(".log")

    def write_order(self) -> None:
        """Write the order for a process to read."""
        order = {
            "directory": str(self.directory.resolve()),
            "group": self.sweep.name,
            "engine": self.engine,
            "trial": self.trial,
            "config": self.config,
        }
        write_whole(self.order, lambda path: path.write_text(json.dumps(order, indent=1)))


def command(order: Path) -> list[str]:
    """The command line that runs an order."""
    return [sys.executable, "-m", "cellzoo.sweep.launchers.job", str(order)]


def run_order(path: Path) -> int:
    """Run an order in this process. What happened is in the run's directory.

    Returns:
        0 where the run did end as it should, diverged included; LOCKED where another process
        runs it; 130 where it was interrupted; else 1.
    """
    order = json.loads(path.read_text())
    try:
        check_code(order["config"])
        prune = pruner(order["trial"]) if order["trial"] else None
        train(
            order["config"],
            Path(order["directory"]),
            order["group"],
            progress=False,
            reraise=True,
            engine=order["engine"],
            prune=prune,
        )
    except LockedError as error:
        print(f"cellzoo: {error}", file=sys.stderr)
        return LOCKED
    except KeyboardInterrupt:
        return 130
    except Exception:  # the run has recorded it in a line; here is the rest
        traceback.print_exc()
        return 1
    return 0


def check_code(config: Mapping[str, Any]) -> None:
    """Refuse to run with other code than the sweep was planned with.

    Raises:
        RunError: a plugin was edited since.
    """
    planned = {kind: each["sha256"] for kind, each in config.get("plugins", {}).items()}
    for kind, thing in plugged(config).items():
        path = plugin_source(thing)
        if (code_hash(path) if path else None) != planned.get(kind):
            raise RunError(f"{path} was edited since the sweep was started")


def main() -> int:
    """Run the order that the command line names; end where who started it is gone."""
    end_with_parent()
    return run_order(Path(sys.argv[1]))


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    sys.exit(main())
