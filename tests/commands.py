"""Running commands in tests, in this process or as a user does, and reading their files."""

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

# On the loop, since compiling each cell takes longer than such a run. A test of the default
# engine sets engine=auto.
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


def assert_refused(arguments: list[str], message: str, capfd) -> str:
    """Require that wrong usage prints one line with `message` on stderr; return stdout."""
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert captured.err.startswith("cellzoo: ")
    assert len(captured.err.strip().splitlines()) == 1
    return captured.out


def as_a_user(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m cellzoo …` in a process of its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "CELLZOO_PL"))}
    return subprocess.run(
        [sys.executable, "-m", "cellzoo", *arguments],
        cwd=cwd,
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def start(
    *arguments: str, cwd: Path, alone: bool = False, **environment: str
) -> subprocess.Popen[str]:
    """Start a command that runs beside the test; `alone` starts it in a session of its own."""
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
    """Wait until a condition holds; fail if the process ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def inspect(run: Path) -> dict:
    """Return the config, summary and history of a run's offline file, read by W&B's own tool."""
    (file,) = run.rglob("run-*.wandb")
    tool = shutil.which("wandb", path=str(Path(sys.executable).parent)) or "wandb"
    inspected = subprocess.run(
        [tool, "leet", "inspect", "--json", str(file)], capture_output=True, text=True, check=True
    )
    content: dict = {"config": {}, "summary": {}, "history": [], "exit": None}
    content["text"] = inspected.stdout
    for line in inspected.stdout.splitlines():
        record = json.loads(line)
        kind = record["type"]
        if kind == "run":
            content["run"] = record["run"]
            content["config"] |= record["run"]["config"]["update"]
        elif kind == "config":
            content["config"] |= record["config"].get("update", {})
        elif kind == "history":
            content["history"].append(record["history"]["item"])
        elif kind == "summary":
            content["summary"] |= record["summary"].get("update", {})
        elif kind == "exit":
            content["exit"] = record["exit"].get("exit_code", 0)
    return content
