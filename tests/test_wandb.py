"""W&B offline: one W&B run for each run, equal to the files, and without a request."""

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
    # The environment holds a key and an online mode; only wandb.mode=online has an effect.
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    assert main(["sweep", *TINY, "name=s", "cell=lstm,gru", "seed=0", "wandb.tags=[mine]"]) == 0
    directories = [path.parent for path in Path("runs/s").rglob("result.json")]
    runs = {directory.parent.name.split("-")[0]: directory for directory in directories}
    assert set(runs) == {"lstm", "gru"}
    for cell, directory in runs.items():
        result, logged = result_of(directory), inspect(directory)
        config = logged["config"]
        assert {k: config[k] for k in ("cell", "init", "hidden_size", "seed", "task")} == {
            "cell": cell, "init": "torch", "hidden_size": 4, "seed": 0, "task": "digits",
        }  # fmt: skip
        assert config["optimizer.lr"] == 0.01
        assert config["parameters"] == result["parameters"]
        assert config["status"] == "done"
        assert logged["run"]["run_group"] == "s"
        assert logged["run"]["job_type"] == cell
        assert set(logged["run"]["tags"]) == {cell, "torch", "digits", "mine"}
        assert logged["exit"] == 0
        # The history equals metrics.csv, value by value.
        rows = metrics(directory)
        for name in ("train/loss", "train/gradient_norm", "val/accuracy", "test/loss"):
            in_file = [float(row[name]) for row in rows if row[name]]
            in_wandb = [float(item[name]) for item in logged["history"] if name in item]
            assert in_file
            assert in_wandb == pytest.approx(in_file)
        best = result["metrics"]["val/accuracy"]
        assert logged["summary"]["best/val/accuracy"] == pytest.approx(best)


def test_a_diverged_run_is_finished_as_failed():
    bad = ["optimizer=sgd", "optimizer.lr=1e38", "trainer.gradient_clip_val=null", "cell=elman"]
    assert main(["train", *TINY, *bad, "cell.nonlinearity=relu", "name=one"]) == 1
    logged = inspect(Path("runs/one"))
    assert logged["exit"] == 1
    assert logged["config"]["status"] == "diverged"


def test_there_is_no_prompt_and_no_code_or_diff_is_saved(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "main.py").write_text("secret = 1\n")
    home = tmp_path / "home"
    home.mkdir()
    done = as_a_user("train", *TINY, "name=one", cwd=tmp_path, HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert "wandb" not in done.stdout.lower().split("seconds")[-1]
    assert done.stderr == ""
    saved = [path.name for path in (tmp_path / "runs/one/wandb").rglob("*") if path.is_file()]
    assert not [name for name in saved if name.endswith((".patch", ".py"))]
    assert '"git"' not in inspect(tmp_path / "runs/one")["text"]


def test_the_files_logger_writes_no_wandb_folder():
    assert main(["train", *TINY, "logger=files", "name=one"]) == 0
    assert not Path("runs/one/wandb").exists()
    assert results_in("runs/one")[0]["status"] == "done"
