"""A sweep and its jobs are killed: the resumed sweep ends as an undisturbed one."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from commands import as_a_user, result_of, start, wait_for

pytestmark = pytest.mark.slow

WATCHED = '''
import os
import sys
import time
from pathlib import Path

from cellzoo import register_task
from cellzoo.tasks import Digits


@register_task("watched_digits")
class WatchedDigits(Digits):
    """Handwritten digits, slowly, with a note of the process's stage and step."""

    def measure(self, prediction, y):
        now = f"{self.trainer.state.stage.value} {self.trainer.global_step} {sys.argv[-1]}"
        Path(os.environ["NOTES"], str(os.getpid())).write_text(now)
        if self.trainer.world_size > 1 and os.environ.get("CRASH"):
            if self.seed == 1 and self.trainer.global_rank == 1 and self.trainer.global_step > 2:
                raise RuntimeError("rank 1 is out of luck")
        time.sleep(float(os.environ.get("SLOW", "0")))
        return super().measure(prediction, y)
'''
OPTIONS = ["--plugin", "watched.py", "task=watched_digits", "hidden_size=4", "logger=files"]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    (tmp_path / "watched.py").write_text(WATCHED)
    (tmp_path / "notes").mkdir()
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def command(name: str) -> list[str]:
    return [
        "sweep", *OPTIONS, f"name={name}", "cell=lstm,gru", "seed=range(6)", "launcher.jobs=2",
        "trainer.max_epochs=2", "save_every=0.15",
    ]  # fmt: skip


def where(note: Path) -> tuple[int, str, int, str]:
    """Return the process of a note, its stage and step, and its run."""
    text = note.read_text().split()
    if len(text) != 3:  # it is being written
        return int(note.name), "", 0, ""
    (run,) = re.findall(r"(\w+-\w+-s\d+)\.json", text[2])
    return int(note.name), text[0], int(text[1]), "/".join(run.rsplit("-", 1))


def kill_three_then_the_sweep(sweep: subprocess.Popen, folder: Path) -> dict[str, str]:
    """Kill a run before its first checkpoint, one in mid-epoch, one in validation; the sweep."""
    killed: dict[str, str] = {}
    deadline = time.monotonic() + 120
    while len(killed) < 3:
        assert time.monotonic() < deadline, killed
        assert sweep.poll() is None, killed
        for note in (folder / "notes").iterdir():
            process, stage, step, run = where(note)
            checkpoint = (folder / "runs/killed" / run / "checkpoints/last.ckpt").exists()
            if stage == "validate":
                how = "in validation"
            elif stage == "train" and not checkpoint:
                how = "before the first checkpoint"
            elif stage == "train" and 5 < step % 34 < 28:
                how = "in mid-epoch"
            else:
                continue
            if how not in killed and run not in killed.values():
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed[how] = run
                note.unlink()
        time.sleep(0.005)
    wait_for(lambda: len(list(folder.glob("runs/killed/*/*/checkpoints/best.ckpt"))) >= 6, sweep)
    sweep.kill()
    sweep.communicate()
    return killed


def test_a_killed_sweep_ends_as_an_undisturbed_one(tmp_path):
    sweep = start(*command("killed"), cwd=tmp_path, SLOW="0.02")
    killed = kill_three_then_the_sweep(sweep, tmp_path)
    assert len(set(killed.values())) == 3
    again = as_a_user(*command("killed"), cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    calm = as_a_user(*command("calm"), cwd=tmp_path)
    assert calm.returncode == 0, calm.stdout + calm.stderr

    runs = sorted(p.parent.relative_to(tmp_path / "runs/calm") for p in
                  (tmp_path / "runs/calm").glob("*/*/result.json"))  # fmt: skip
    assert len(runs) == 12
    assert runs == sorted(p.parent.relative_to(tmp_path / "runs/killed") for p in
                          (tmp_path / "runs/killed").glob("*/*/result.json"))  # fmt: skip
    resumed = 0
    for run in runs:
        one, other = tmp_path / "runs/killed" / run, tmp_path / "runs/calm" / run
        assert_same_run(one, other)
        resumed += any(
            each["resumed_from"] != "the beginning" for each in result_of(one)["attempts"]
        )
    assert resumed >= 2  # not all started from the beginning
    attempts = (tmp_path / "runs/killed/attempts.csv").read_text()
    assert attempts.count("killed by SIGKILL") == 3
    for run in runs:
        assert len(re.findall(rf"{run},.*,ended\n", attempts)) == 1


def assert_same_run(one: Path, other: Path) -> None:
    results = result_of(one), result_of(other)
    for key in ("status", "metrics", "steps", "parameters", "seed", "cell", "identity", "threads"):
        assert results[0][key] == results[1][key], (one, key)
    assert results[0]["status"] == "done"
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    for name in ("best", "last"):
        weights = [
            torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
            for run in (one, other)
        ]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_ranks_in_a_sweep_equal_those_of_a_single_run_and_a_dead_rank_fails_its_run_only(tmp_path):
    ddp = [*OPTIONS, "trainer=ddp", "trainer.devices=2", "trainer.max_epochs=1"]
    alone = {}
    for seed in (1, 2):
        trained = as_a_user("train", *ddp, f"seed={seed}", f"name=alone{seed}", cwd=tmp_path)
        assert trained.returncode == 0, trained.stderr
        alone[seed] = result_of(tmp_path / f"runs/alone{seed}")
    sweep = ["sweep", *ddp, "seed=1,2", "name=s", "launcher.jobs=1"]
    crashed = as_a_user(*sweep, cwd=tmp_path, CRASH="1")
    assert crashed.returncode == 1
    (group,) = (tmp_path / "runs/s").glob("lstm-*")
    assert {path.name for path in group.iterdir()} == {"s1", "s2"}
    failed = result_of(group / "s1")
    assert failed["status"] == "failed"
    assert failed["reason"] == "rank 1: RuntimeError: rank 1 is out of luck"
    assert (tmp_path / "runs/s/attempts.csv").read_text().count("s1,") == 1  # no retry
    assert_equals_alone(result_of(group / "s2"), alone[2])
    retried = as_a_user(*sweep, "--retry", "failed", cwd=tmp_path)
    assert retried.returncode == 0, retried.stdout + retried.stderr
    assert "1 had ended before" in retried.stdout
    assert_equals_alone(result_of(group / "s1"), alone[1])


def assert_equals_alone(result: dict, alone: dict) -> None:
    assert (result["status"], result["seed"]) == ("done", alone["seed"])
    assert result["metrics"] == alone["metrics"]
    assert (result["steps"], result["world_size"]) == (alone["steps"], 2)
