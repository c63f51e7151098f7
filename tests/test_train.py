"""One run: what it leaves on disk, how it ends, and what can be read back."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import (
    LEAKY,
    TINY,
    as_a_user,
    assert_refused,
    metrics,
    result_of,
    results_in,
    sweep,
    train,
)

import cellzoo
from cellzoo.cli import main
from cellzoo.run.directory import RunError
from cellzoo.run.learner import OPTIMIZERS, SCHEDULERS
from cellzoo.tasks import Digits

BAD_TASK = """
import torch
from cellzoo import Task, option, register_task
from cellzoo.tasks.base import Measure, TensorExamples


@register_task("bad_task")
class BadTask(Task):
    input_size = 1
    output_size = 1
    how: str = option("raise", choices=("raise", "gradient", "metric"))

    def examples(self, split, epoch):
        return TensorExamples(torch.ones(40, 3, 1), torch.ones(40))

    def measure(self, prediction, y):
        if self.how == "raise" and self.trainer.global_step > 0:
            raise RuntimeError("the disk is on fire\\nsecond line")
        loss = (prediction * 0).sum()
        if self.how == "gradient" and self.trainer.training:
            loss = loss.sqrt()  # 0, with an infinite slope
        nothing = torch.tensor(float("nan"))
        extra = {"extra": Measure(nothing, len(y))} if self.how == "metric" else {}
        return {"loss": Measure(loss, len(y)), **extra}
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_run_leaves_what_compare_and_load_run_need():
    assert train("name=one", "cell=gru", "seed=3") == 0
    result = result_of("runs/one")
    assert result["status"] == "done"
    named = {key: result[key] for key in ("cell", "task", "init", "hidden_size", "seed")}
    assert named == {
        "cell": "gru", "task": "digits", "init": "torch", "hidden_size": 4, "seed": 3,
    }  # fmt: skip
    assert result["parameters"] == 3 * (4 * 8 + 4 * 4 + 8) + 10 * 4 + 10
    assert set(result["metrics"]) == {
        f"{split}/{name}" for split in ("val", "test") for name in ("loss", "accuracy")
    }
    assert result["steps"] == 34
    assert (result["cellzoo"], result["torch"]) == (cellzoo.__version__, torch.__version__)
    config = yaml.safe_load(Path("runs/one/config.yaml").read_text())
    assert config["cell"] == {"name": "gru"}
    assert config["optimizer"]["lr"] == 0.01
    assert "hydra" not in config
    rows = metrics("runs/one")
    logged = {key: row[key] for row in rows for key in row if row[key]}
    for name in ("val/accuracy", "test/accuracy", "test/loss"):
        assert float(logged[name]) == pytest.approx(result["metrics"][name])
    assert any(row["train/gradient_norm"] for row in rows)


def test_load_run_gives_the_model_that_was_tested():
    assert train("name=one", "trainer.max_epochs=3", "cell=lstm", "cell.proj_size=3") == 0
    model = cellzoo.load_run("runs/one")
    assert not model.training
    assert isinstance(model.rnn, cellzoo.RNN)
    examples = Digits().examples("test", 0)
    x, y = examples.__getitems__(range(len(examples)))
    with torch.no_grad():
        accuracy = (model(x).argmax(-1) == y).float().mean()
    assert float(accuracy) == pytest.approx(result_of("runs/one")["metrics"]["test/accuracy"])
    for name in ("best", "last"):
        torch.load(f"runs/one/checkpoints/{name}.ckpt", weights_only=True)
    with pytest.raises(RunError, match="there is best, last"):
        cellzoo.load_run("runs/one", "first")
    with pytest.raises(RunError, match="holds no run"):
        cellzoo.load_run("runs")


def test_the_test_split_is_read_once_and_at_the_best_checkpoint():
    asked = []
    examples = Digits.examples

    def spy(self, split, epoch):
        asked.append(split)
        return examples(self, split, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "examples", spy)
        # So large a rate that the last epoch is not the best one.
        assert train("name=one", "trainer.max_epochs=4", "optimizer.lr=0.3") == 0
    assert asked.count("test") == 1
    assert asked[-1] == "test"
    rows = metrics("runs/one")
    validation = [float(row["val/accuracy"]) for row in rows if row["val/accuracy"]]
    assert result_of("runs/one")["metrics"]["val/accuracy"] == pytest.approx(max(validation))
    model, task = cellzoo.load_run("runs/one"), Digits()
    x, y = task.examples("val", 0).__getitems__(range(360))
    with torch.no_grad():
        at_best = (model(x).argmax(-1) == y).float().mean()
    assert float(at_best) == pytest.approx(max(validation))


def test_a_seed_fixes_a_run_and_zero_is_a_seed():
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert train(f"name={name}", f"seed={seed}", "trainer.deterministic=true") == 0
    a, b, c = (result_of(f"runs/{name}")["metrics"] for name in "abc")
    assert a == b
    assert a != c


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged_with_the_step(capsys):
    bad = ["optimizer=sgd", "optimizer.lr=1e38", "trainer.gradient_clip_val=null", "cell=elman"]
    assert train("name=one", *bad, "cell.nonlinearity=relu") == 1
    result = result_of("runs/one")
    assert result["status"] == "diverged"
    assert "is not finite at step" in result["reason"]
    assert isinstance(result["step"], int)
    assert not any(name.startswith("test/") for name in result["metrics"])
    assert "diverged" in capsys.readouterr().out


def test_a_gradient_that_is_not_finite_diverges_too(tmp_path):
    (tmp_path / "bad.py").write_text(BAD_TASK)
    arguments = ["task=bad_task", "task.how=gradient", "logger=files", "name=one"]
    assert main(["train", "--plugin", "bad.py", *arguments]) == 1
    result = result_of("runs/one")
    assert (result["status"], result["step"]) == ("diverged", 0)
    assert "a gradient" in result["reason"]


def test_a_metric_that_is_not_finite_is_null(tmp_path, capsys):
    (tmp_path / "bad.py").write_text(BAD_TASK.replace("bad_task", "nan_task"))
    arguments = ["task=nan_task", "task.how=metric", "logger=files", "trainer.max_epochs=1"]
    assert main(["train", "--plugin", "bad.py", *arguments, "name=one"]) == 0
    assert result_of("runs/one")["metrics"]["test/extra"] is None
    assert "not finite" in capsys.readouterr().out


def test_a_pattern_of_cells_is_swept(capfd):
    assert sweep("name=s", "cell=glob(gru_v*)") == 0
    assert {result["cell"] for result in results_in("runs/s")} == {"gru_v1"}
    assert_refused(["sweep", *TINY, "name=t", "cell=glob(nothing*)"], "nothing matches", capfd)
    interval = ["sweep", *TINY, "name=t", "search=random", "cell=interval(0,1)"]
    assert_refused(interval, "cell is a choice and has no interval", capfd)


def test_a_failing_job_is_recorded_and_does_not_stop_the_others(tmp_path, capsys):
    (tmp_path / "bad.py").write_text(BAD_TASK.replace("bad_task", "worse_task"))
    arguments = ["name=s", "logger=files", "hidden_size=4", "trainer.max_epochs=2"]
    assert main(["sweep", "--plugin", "bad.py", "task=worse_task,digits", *arguments]) == 1
    results = {result["task"]: result for result in results_in("runs/s")}
    assert results["digits"]["status"] == "done"
    assert results["worse_task"]["status"] == "failed"
    assert results["worse_task"]["reason"] == "RuntimeError: the disk is on fire"
    said = capsys.readouterr().out
    assert "[1/2]" in said
    assert "failed: RuntimeError: the disk is on fire" in said
    assert "Traceback" not in said


def test_a_finished_run_is_not_overwritten(capsys):
    assert train("name=one") == 0
    before = result_of("runs/one")
    assert train("name=one", "seed=1") == 2
    assert "holds another run, done" in capsys.readouterr().err
    assert result_of("runs/one") == before
    assert sweep("name=one", "seed=0,1") == 2
    assert "holds a single run" in capsys.readouterr().err


def test_a_sweep_goes_on_where_it_was(capsys):
    assert sweep("name=s", "seed=0,1", "cell=lstm,gru") == 0
    first = results_in("runs/s")
    assert len(first) == 4
    assert {path.name for path in Path("runs/s").glob("lstm-*/*")} == {"s0", "s1"}
    capsys.readouterr()
    assert sweep("name=s", "seed=0,1,2", "cell=lstm,gru") == 0
    said = capsys.readouterr().out
    assert "4 had ended before" in said
    assert len(results_in("runs/s")) == 6
    # Another learning rate is another run, beside the first.
    assert sweep("name=s", "seed=0", "cell=lstm", "optimizer.lr=0.02") == 0
    assert len(list(Path("runs/s").glob("lstm-*"))) == 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer):
    assert train("name=one", f"optimizer={optimizer}", "trainer=debug") == 0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers(scheduler):
    assert train("name=one", f"scheduler={scheduler}", "trainer.max_epochs=2") == 0


def test_early_stopping_and_overfitting():
    stop = ["early_stopping.patience=1", "early_stopping.min_delta=1.0", "trainer.max_epochs=50"]
    assert train("name=stop", *stop) == 0
    assert result_of("runs/stop")["steps"] == 2 * 34
    overfit = ["trainer=overfit", "trainer.max_epochs=120", "hidden_size=16"]
    assert train("name=overfit", *overfit) == 0
    rows = metrics("runs/overfit")
    assert float([row["train/loss"] for row in rows if row["train/loss"]][-1]) < 0.2


def test_layers_directions_dropout_and_pixels():
    more = ["num_layers=2", "bidirectional=true", "dropout=0.2", "trainer=debug"]
    assert train("name=one", *more, "task.read=pixels", "cell=layernorm_lstm") == 0
    assert train("name=two", *more, "task=copy", "task.length=5", "task.train_size=64") == 0


def test_a_plugin_travels_with_the_run(tmp_path):
    (tmp_path / "my_cell.py").write_text(LEAKY)
    plugin = ["train", "--plugin", "my_cell.py", *TINY, "cell=leaky_lstm", "name=one"]
    done = as_a_user(*plugin, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/one/plugins/cell/my_cell.py").read_text() == LEAKY
    code = "import cellzoo; print(cellzoo.load_run('runs/one').rnn)"
    (tmp_path / "my_cell.py").unlink()
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "RNN(leaky_lstm, 8, 4" in loaded.stdout


def test_the_engine_that_ran_is_recorded_and_determinism_ends_with_the_run():
    options = ["trainer=debug", "trainer.deterministic=true", "trainer.precision=bf16-mixed"]
    assert train("name=one", "engine=auto", *options) == 0
    said = result_of("runs/one")["engine_choice"]
    assert said == "compiled"  # torch.nn's kernel declines autocast
    assert not torch.are_deterministic_algorithms_enabled()


def test_load_run_takes_the_code_that_the_run_had(tmp_path):
    outputs = []
    for name, leak in (("old", "0.9"), ("new", "0.2")):
        (tmp_path / "my_cell.py").write_text(LEAKY.replace("0.9", leak))
        command = ["train", "--plugin", "my_cell.py", *TINY, "cell=leaky_lstm", f"name={name}"]
        done = as_a_user(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    code = "import cellzoo; print(cellzoo.load_run('runs/{}').rnn.cell().update.__code__.co_consts)"
    for name in ("old", "new"):
        said = as_a_script(code.format(name), tmp_path)
        outputs.append("0.9" in said)
    assert outputs == [True, False]
    assert "leaky_lstm" not in cellzoo.list_cells()


def as_a_script(code, folder):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True
    ).stdout


def test_a_run_that_ends_within_an_epoch_is_validated_and_kept():
    for steps in (5, 60):
        assert train(f"name=s{steps}", "trainer.max_epochs=9", f"trainer.max_steps={steps}") == 0
        result = result_of(f"runs/s{steps}")
        assert result["steps"] == steps
        assert "val/accuracy" in result["metrics"]
        last = torch.load(f"runs/s{steps}/checkpoints/last.ckpt", weights_only=True)
        assert last["global_step"] == steps
        model, task = cellzoo.load_run(f"runs/s{steps}"), Digits()
        for split in ("val", "test"):
            x, y = task.examples(split, 0).__getitems__(range(360))
            with torch.no_grad():
                accuracy = (model(x).argmax(-1) == y).float().mean()
            assert result["metrics"][f"{split}/accuracy"] == pytest.approx(float(accuracy))


def test_a_failure_of_wandb_at_the_end_loses_nothing(monkeypatch):
    import wandb

    def gone(*_, **__):
        raise ConnectionError("server gone")

    with monkeypatch.context() as patch:
        patch.setattr(wandb.sdk.wandb_run.Run, "finish", gone)
        assert main(["train", *TINY, "logger=wandb", "name=one"]) == 0
    wandb.finish()
    assert result_of("runs/one")["status"] == "done"
    assert "server gone" in Path("runs/one/train.log").read_text()
