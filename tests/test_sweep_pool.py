"""`cellzoo sweep` with real processes: slots, signals, timeouts, retries, locks, resuming."""

import csv
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from commands import TINY, as_a_user, result_of, results_in, start, wait_for

SPY = '''
"""A task that records when and where it trains, and misbehaves as its option says."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from cellzoo import Task, option, register_task
from cellzoo.tasks.base import Measure, TensorExamples

NOTES = Path(os.environ["SPY"])


def note(seed, event):
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    with (NOTES / str(seed)).open("a") as file:
        file.write(f"{event} {time.time()} {os.getpid()} {devices}\\n")


def first_time(event):
    try:
        (NOTES / event).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@register_task("spy")
class Spy(Task):
    """A task without content."""

    input_size = 1
    output_size = 1
    how: str = option("nothing")
    nap: float = option(0.0)

    def examples(self, split, epoch):
        if split == "train":
            note(self.seed, "start")
            getattr(self, f"do_{self.how}")()
            note(self.seed, "end")
        return TensorExamples(torch.ones(8, 3, 1), torch.ones(8))

    def measure(self, prediction, y):
        factor = torch.nan if self.how == "nan" else 1
        return {"loss": Measure((prediction - 1).square().mean() * factor, len(y))}

    def do_nothing(self):
        time.sleep(self.nap)

    def do_first_waits(self):
        while self.seed == 0 and not (NOTES / "go").exists():
            time.sleep(0.01)

    def do_die_once(self):
        if first_time("died"):
            os.kill(os.getpid(), signal.SIGKILL)

    def do_die(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def do_exit(self):
        sys.exit(3)

    def do_vanish(self):
        os._exit(0)

    def do_fill(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def do_raise(self):
        raise RuntimeError("no such luck")

    def do_nan(self):
        pass
'''
FAST = [*TINY[1:], "task=spy"]


@pytest.fixture
def spy(tmp_path):
    """Write the plugin, and return a function that runs `cellzoo sweep` with it."""
    (tmp_path / "spy.py").write_text(SPY)
    (tmp_path / "notes").mkdir()

    def sweep(*overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return as_a_user(
            *command(*overrides), cwd=tmp_path, SPY=str(tmp_path / "notes"), **environment
        )

    return sweep


def command(*overrides: str) -> list[str]:
    return ["sweep", "--plugin", "spy.py", *FAST, "name=s", *overrides]


def start_sweep(folder: Path, *overrides: str) -> subprocess.Popen:
    return start(*command(*overrides), cwd=folder, SPY=str(folder / "notes"))


def notes(folder: Path, seed: int) -> list[list[str]]:
    path = folder / "notes" / str(seed)
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "runs/s" / name).open() as file:
        return list(csv.DictReader(file))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_job_has_its_group_of_gpus_to_itself_and_a_slow_job_delays_no_other(spy, tmp_path):
    sweep = start_sweep(
        tmp_path, "task.how=first_waits", "seed=range(20)", "launcher.gpus=[0,1,2,3,4,5,6,7]",
        "launcher.gpus_per_job=2",
    )  # fmt: skip
    wait_for(lambda: all(len(notes(tmp_path, seed)) == 2 for seed in range(1, 20)), sweep)
    (tmp_path / "notes/go").touch()
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, output
    assert "4 groups of 2 GPUs" in output
    spans = []
    for seed in range(20):
        (_, began, _, devices), (_, ended, *_) = notes(tmp_path, seed)
        spans.append((float(began), float(ended), devices))
    assert {devices for *_, devices in spans} == {"0,1", "2,3", "4,5", "6,7"}
    for i, (began, ended, devices) in enumerate(spans):
        for other_began, other_ended, others in spans[:i]:
            if others == devices:
                assert ended <= other_began or other_ended <= began
    # Jobs dealt out in turn would give the slow job's group five of them.
    assert sum(devices == spans[0][2] for *_, devices in spans) == 1


@pytest.mark.slow
def test_outcomes_of_jobs_and_retries(spy, tmp_path):
    ways = "nothing,die_once,die,exit,vanish,fill,raise,nan"
    options = ["launcher.jobs=2", "launcher.retries=1"]
    sweep = spy(f"task.how={ways}", *options)
    assert sweep.returncode == 1
    outcomes = {}
    for path in (tmp_path / "runs/s").glob("*/*/config.yaml"):
        how = next(
            row["overrides"].split("=")[1]
            for row in rows(tmp_path, "planned.csv")
            if row["run"] == str(path.parent.relative_to(tmp_path / "runs/s"))
        )
        result = result_of(path.parent)
        outcomes[how] = (result["status"], result["reason"])
    assert outcomes == {
        "nothing": ("done", None),
        "die_once": ("done", None),
        "die": ("failed", "killed by SIGSEGV, 2 times"),
        "exit": ("failed", "SystemExit: 3"),
        "vanish": ("failed", "ended without a result (exit status 0)"),
        "fill": ("failed", "OutOfMemoryError: CUDA out of memory, 2 times"),
        "raise": ("failed", "RuntimeError: no such luck"),
        "nan": ("diverged", "the train loss is not finite at step 0"),
    }
    tries = Counter(row["run"] for row in rows(tmp_path, "attempts.csv"))
    assert sorted(tries.values()) == [1, 1, 1, 1, 1, 2, 2, 2]
    (log,) = (
        path for path in (tmp_path / "runs/s/jobs").glob("*.log") if "luck" in path.read_text()
    )
    assert "spy.py" in log.read_text()  # the traceback
    # The same command runs nothing; with --retry, it runs the failed jobs and nothing else.
    again = spy(f"task.how={ways}", *options)
    assert "8 had ended before" in again.stdout
    assert len(rows(tmp_path, "attempts.csv")) == 11
    retried = spy(f"task.how={ways}", *options, "--retry", "failed")
    assert "3 had ended before" in retried.stdout
    assert len(rows(tmp_path, "attempts.csv")) == 11 + 2 + 1 + 1 + 2 + 1
    status = as_a_user("sweep", "--status", "runs/s", cwd=tmp_path)
    assert status.stdout.splitlines()[1].split() == ["lstm", "2", "0", "1", "5", "0"]
    assert "RuntimeError: no such luck" in status.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_job_is_ended_at_its_time_limit(how, spy, tmp_path):
    sweep = spy("task.nap=100", "launcher.timeout=4", f"launcher.start={how}", "seed=0")
    assert f"started by {how}" in sweep.stdout
    assert sweep.returncode == 1, sweep.stdout
    (result,) = results_in(tmp_path / "runs/s")
    assert (result["status"], result["reason"]) == ("failed", "timed out after 4 s")


@pytest.mark.slow
def test_ctrl_c_ends_the_jobs_and_keeps_finished_runs(spy, tmp_path):
    sweep = start_sweep(tmp_path, "task.how=first_waits", "seed=1,0,2", "launcher.jobs=1")
    wait_for(lambda: notes(tmp_path, 0))
    (_, _, job, *_) = notes(tmp_path, 0)[0]
    sweep.send_signal(signal.SIGINT)
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, output
    assert not alive(int(job))
    statuses = sorted(result["status"] for result in results_in(tmp_path / "runs/s"))
    assert statuses == ["done", "interrupted"]
    (tmp_path / "notes/go").touch()
    done = spy("task.how=first_waits", "seed=1,0,2", "launcher.jobs=1")
    assert done.returncode == 0, done.stdout
    assert "1 had ended before" in done.stdout


@pytest.mark.slow
def test_one_sweep_at_a_time_and_a_killed_one_leaves_neither_lock_nor_jobs(spy, tmp_path):
    sweep = start_sweep(tmp_path, "task.nap=300", "seed=0,1", "launcher.jobs=1")
    wait_for(lambda: notes(tmp_path, 0))
    second = spy("task.nap=300", "seed=0,1")
    assert second.returncode == 2
    assert "runs/s is in use by process" in second.stderr
    running = as_a_user("sweep", "--status", "runs/s", cwd=tmp_path)
    assert running.stdout.splitlines()[-2].split() == ["all", "0", "1", "0", "0", "1"]
    assert "running" in running.stdout.splitlines()[-1]
    (_, _, job, *_) = notes(tmp_path, 0)[0]
    sweep.kill()
    sweep.communicate()
    wait_for(lambda: not alive(int(job)))
    left = as_a_user("sweep", "--status", "runs/s", cwd=tmp_path)
    assert "the same command resumes it" in left.stdout
    third = spy("task.nap=0", "seed=0,1")
    assert third.returncode == 0
    assert "the last command had other overrides" in third.stdout


@pytest.mark.slow
def test_an_edited_plugin_changes_nothing_in_a_running_sweep(spy, tmp_path):
    sweep = start_sweep(tmp_path, "task.how=first_waits", "seed=0,1", "launcher.jobs=1")
    wait_for(lambda: notes(tmp_path, 0))
    (tmp_path / "spy.py").write_text(SPY.replace("first_waits(self)", "another(self)"))
    (tmp_path / "notes/go").touch()
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, output
    (kept,) = (tmp_path / "runs/s/plugins").rglob("spy.py")
    assert kept.read_text() == SPY
    edited = spy("task.how=another", "seed=1")
    assert edited.returncode == 0, edited.stderr
    assert "spy.py was edited: its runs are new ones" in edited.stdout
    assert len(list((tmp_path / "runs/s").glob("lstm-*"))) == 2
