"""Running cellzoo's commands in tests: in this process, and as a user does."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cellzoo.cli import main

# By the loop: a compiler takes longer than such a run, and for each cell anew. A test of what
# the engine is by default says engine=auto.
TINY = [
    "task=digits", "hidden_size=4", "trainer.max_epochs=1", "logger=files", "engine=loop",
]  # fmt: skip

LEAKY = '''
from torch import sigmoid, tanh

from cellzoo import GatedCell, register_cell


@register_cell("leaky_lstm")
class LeakyLSTM(GatedCell):
    """c = f c + i g;  h = lam h + (1 - lam) o tanh(c)"""

    gates = ("i", "f", "g", "o")
    states = ("h", "c")

    def update(self, a, s):
        c = sigmoid(a.f) * s.c + sigmoid(a.i) * tanh(a.g)
        h = 0.9 * s.h + 0.1 * sigmoid(a.o) * tanh(c)
        return h, c
'''


def result_of(directory: Path | str) -> dict:
    return json.loads((Path(directory) / "result.json").read_text())


def metrics(directory: Path | str) -> list[dict[str, str]]:
    with (Path(directory) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def results_in(sweep: Path | str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(Path(sweep).rglob("result.json"))]


def train(*overrides: str) -> int:
    return main(["train", *TINY, *overrides])


def sweep(*overrides: str) -> int:
    return main(["sweep", *TINY, "launcher=inprocess", *overrides])


def assert_refused(arguments: list[str], says: str, capfd) -> str:
    """Wrong usage is one line on stderr that says what is wrong; returns what stdout has."""
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert says in captured.err
    assert captured.err.startswith("cellzoo: ")
    assert len(captured.err.strip().splitlines()) == 1
    return captured.out


def as_a_user(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m cellzoo …` in a process of its own."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "CELLZOO_PL"))}
    return subprocess.run(
        [sys.executable, "-m", "cellzoo", *arguments],
        cwd=cwd,
        env={**keep, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def start(
    *arguments: str, cwd: Path, alone: bool = False, **environment: str
) -> subprocess.Popen[str]:
    """A command as `as_a_user` runs it, that goes on while the test does; alone in its session."""
    return subprocess.Popen(
        [sys.executable, "-m", "cellzoo", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=alone,
    )


def wait_for(
    condition: Callable[[], object],
    process: subprocess.Popen[str] | None = None,
    seconds: float = 120,
) -> None:
    """Wait until a condition holds, while a process runs, if one is given."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def inspect(run: Path) -> dict:
    """A run's offline file, read by W&B's own tool: config, summary and history."""
    (file,) = run.rglob("run-*.wandb")
    tool = shutil.which("wandb", path=str(Path(sys.executable).parent)) or "wandb"
    said = subprocess.run(
        [tool, "leet", "inspect", "--json", str(file)], capture_output=True, text=True, check=True
    )
    found: dict = {"config": {}, "summary": {}, "history": [], "exit": None, "text": said.stdout}
    for line in said.stdout.splitlines():
        record = json.loads(line)
        kind = record["type"]
        if kind == "run":
            found["run"] = record["run"]
            found["config"] |= record["run"]["config"]["update"]
        elif kind == "config":
            found["config"] |= record["config"].get("update", {})
        elif kind == "history":
            found["history"].append(record["history"]["item"])
        elif kind == "summary":
            found["summary"] |= record["summary"].get("update", {})
        elif kind == "exit":
            found["exit"] = record["exit"].get("exit_code", 0)
    return found
