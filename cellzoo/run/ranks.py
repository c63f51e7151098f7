"""The processes of a run on several devices: started by the first, ended together.

Lightning starts ranks 1, 2, … as children of rank 0, by the same command. Where one of them dies,
its own watch kills rank 0 as well, before that can say what happened; this one lets rank 0 record
the reason that the rank left, and ends what is left of the run in bounded time.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from cellzoo.system.files import write_whole

FOLDER = ".ranks"  # what ranks that did not end well say of it
GRACE = 10.0  # seconds for rank 0 to notice by itself that another died
PAUSE = 0.2


class Launcher(_SubprocessScriptLauncher):
    """Starts the other ranks, and leaves watching them to `Ranks`; threads are the run's matter."""

    def launch(
        self, function: Callable, *args: Any, trainer: Trainer | None = None, **kwargs: Any
    ) -> Any:
        """Start the other ranks where nobody else does, and call the function."""
        self.cluster_environment.validate_settings(
            num_devices=self.num_processes, num_nodes=self.num_nodes
        )
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        return function(*args, **kwargs)


class Ranks:
    """The other ranks of a run, seen from rank 0.

    Args:
        directory: the run's.
        give_up: called with the reason where a rank died and rank 0 hangs; it must not return.
    """

    def __init__(self, directory: Path, give_up: Callable[[str], None]) -> None:
        self.folder = directory / FOLDER
        self.give_up = give_up
        self.launcher: Launcher | None = None
        self.over = threading.Event()

    def watch(self, trainer: Trainer) -> None:
        """Start them by this class's launcher, and watch them from then on."""
        old = trainer.strategy.launcher
        if isinstance(old, _SubprocessScriptLauncher):
            self.launcher = Launcher(old.cluster_environment, old.num_processes, old.num_nodes)
            trainer.strategy._launcher = self.launcher
            for said in self.folder.glob("*.json"):
                said.unlink()
            threading.Thread(target=self._watch, daemon=True).start()

    @property
    def processes(self) -> list[subprocess.Popen]:
        """The children; none where the run is of one process, or another program started them."""
        return self.launcher.procs if self.launcher else []

    def outcome(self) -> dict[str, Any] | None:
        """What the rank that ended first said, or how it died; None where all are well."""
        deadline = time.monotonic() + 2  # a rank writes before it lets go of the others
        while self.processes and time.monotonic() < deadline:
            if any(process.poll() for process in self.processes):
                break
            time.sleep(PAUSE)
        said = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        if said:
            return json.loads(said[0].read_text())
        for rank, process in enumerate(self.processes, 1):
            if code := process.poll():
                return {"status": "failed", "reason": _died(rank, code)}
        return None

    def end(self, well: bool) -> None:
        """End them: by themselves, where the run ended well, else at once."""
        self.over.set()
        deadline = time.monotonic() + (GRACE if well else 0)
        for process in self.processes:
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _watch(self) -> None:
        while not self.over.wait(PAUSE):
            if any(process.poll() for process in self.processes):
                if not self.over.wait(GRACE):
                    outcome = self.outcome() or {}
                    self.give_up(outcome.get("reason", "another rank died"))
                return


def _died(rank: int, code: int) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    return f"rank {rank} {how}"


def say(directory: Path, rank: int, outcome: Mapping[str, Any]) -> None:
    """For a rank other than the first: leave word of how it ended."""
    text = json.dumps(dict(outcome))
    write_whole(directory / FOLDER / f"{rank}.json", lambda target: target.write_text(text))


def end_with_parent() -> None:
    """End, from now on, where the process that started this one is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
