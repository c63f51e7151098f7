"""The ranks of a run on several devices: rank 0 starts, watches and ends the others.

Lightning starts ranks 1, 2, … as children of rank 0, by the same command. If one of them dies,
Lightning's watch kills rank 0 before it can record the reason. The watch of this module lets rank 0
record the reason that the rank left, and ends the remaining processes in bounded time.
"""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning import Trainer

from cellzoo.run.lightning_private import RankLauncher, replace_launcher
from cellzoo.run.result import Status
from cellzoo.system.files import write_whole

FOLDER = ".ranks"  # the outcomes of ranks that failed
GRACE = 10.0  # seconds in which rank 0 may notice the death of another rank by itself
PAUSE = 0.2


@dataclass(frozen=True)
class RankOutcome:
    """The outcome of a rank that did not succeed.

    Attributes:
        status, reason, step: as in `RunResult`.
    """

    status: Status
    reason: str
    step: int | None = None


class Ranks:
    """The other ranks of a run, seen from rank 0.

    Args:
        directory: of the run.
        give_up: called with the reason if a rank died and rank 0 hangs; it must not return.
    """

    def __init__(self, directory: Path, give_up: Callable[[str], None]) -> None:
        self.folder = directory / FOLDER
        self.give_up = give_up
        self.launcher: RankLauncher | None = None
        self.over = threading.Event()

    def watch(self, trainer: Trainer) -> None:
        """Have the trainer start the ranks without Lightning's watch, and watch them."""
        self.launcher = replace_launcher(trainer)
        if self.launcher is not None:
            for path in self.folder.glob("*.json"):
                path.unlink()
            threading.Thread(target=self._watch, daemon=True).start()

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """Return the children; none for a single process, or if another program started them."""
        return self.launcher.processes if self.launcher else []

    def outcome(self) -> RankOutcome | None:
        """Return the outcome of the rank that failed first; None if no rank failed."""
        deadline = time.monotonic() + 2  # a rank writes its outcome before it disconnects
        while self.processes and time.monotonic() < deadline:
            if any(process.poll() for process in self.processes):
                break
            time.sleep(PAUSE)
        written = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        if written:
            recorded = json.loads(written[0].read_text())
            return RankOutcome(**{**recorded, "status": Status(recorded["status"])})
        for rank, process in enumerate(self.processes, 1):
            if code := process.poll():
                return RankOutcome(Status.FAILED, _death(rank, code))
        return None

    def end(self, well: bool) -> None:
        """End the ranks: wait for them if the run ended well, else kill them."""
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
                    outcome = self.outcome()
                    self.give_up(outcome.reason if outcome else "another rank died")
                return


def _death(rank: int, code: int) -> str:
    end = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    return f"rank {rank} {end}"


def record_outcome(directory: Path, rank: int, outcome: RankOutcome) -> None:
    """Write the outcome of a rank other than 0, for rank 0 to read."""
    text = json.dumps(asdict(outcome))
    write_whole(directory / FOLDER / f"{rank}.json", lambda target: target.write_text(text))
