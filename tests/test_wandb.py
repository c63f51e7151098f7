"""W&B offline: each run its own, in agreement with the files, and nothing sent anywhere."""

import subprocess
from pathlib import Path

import pytest
from commands import as_a_user, inspect, metrics, result_of, results_in

from cellzoo.cli import main

TINY = ["task=digits", "hidden_size=4", "trainer.max_epochs=2", "engine=loop"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_two_jobs_are_two_runs_that_agree_with_their_files(monkeypatch):
    # A key and a wish to be online lie around; only wandb.mode=online counts.
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    assert main(["sweep", *TINY, "name=s", "cell=lstm,gru", "seed=0", "wandb.tags=[mine]"]) == 0
    directories = [path.parent for path in Path("runs/s").rglob("result.json")]
    runs = {directory.parent.name.split("-")[0]: directory for directory in directories}
    assert set(runs) == {"lstm", "gru"}
    for cell, directory in runs.items():
        result, seen = result_of(directory), inspect(directory)
        config = seen["config"]
        assert {k: config[k] for k in ("cell", "init", "hidden_size", "seed", "task")} == {
            "cell": cell, "init": "torch", "hidden_size": 4, "seed": 0, "task": "digits",
        }  # fmt: skip
        assert config["optimizer.lr"] == 0.01
        assert config["parameters"] == result["parameters"]
        assert config["status"] == "done"
        assert seen["run"]["run_group"] == "s"
        assert seen["run"]["job_type"] == cell
        assert set(seen["run"]["tags"]) == {cell, "torch", "digits", "mine"}
        assert seen["exit"] == 0
        # The history is metrics.csv, value by value.
        rows = metrics(directory)
        for name in ("train/loss", "train/gradient_norm", "val/accuracy", "test/loss"):
            in_file = [float(row[name]) for row in rows if row[name]]
            in_wandb = [float(item[name]) for item in seen["history"] if name in item]
            assert in_file
            assert in_wandb == pytest.approx(in_file)
        best = result["metrics"]["val/accuracy"]
        assert seen["summary"]["best/val/accuracy"] == pytest.approx(best)


def test_a_diverged_run_is_finished_as_failed():
    bad = ["optimizer=sgd", "optimizer.lr=1e38", "trainer.gradient_clip_val=null", "cell=elman"]
    assert main(["train", *TINY, *bad, "cell.nonlinearity=relu", "name=one"]) == 1
    seen = inspect(Path("runs/one"))
    assert seen["exit"] == 1
    assert seen["config"]["status"] == "diverged"


def test_nothing_is_asked_and_no_code_or_diff_is_kept(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "main.py").write_text("secret = 1\n")
    home = tmp_path / "home"
    home.mkdir()
    done = as_a_user("train", *TINY, "name=one", cwd=tmp_path, HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert "wandb" not in done.stdout.lower().split("seconds")[-1]
    assert done.stderr == ""
    kept = [path.name for path in (tmp_path / "runs/one/wandb").rglob("*") if path.is_file()]
    assert not [name for name in kept if name.endswith((".patch", ".py"))]
    assert '"git"' not in inspect(tmp_path / "runs/one")["text"]


def test_files_only_leaves_no_wandb():
    assert main(["train", *TINY, "logger=files", "name=one"]) == 0
    assert not Path("runs/one/wandb").exists()
    assert results_in("runs/one")[0]["status"] == "done"
