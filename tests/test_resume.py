"""A run that is killed, stopped or fails goes on to the end that it would have had."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from commands import LEAKY, inspect, metrics, result_of, results_in, wait_for

from cellzoo.cli import main
from cellzoo.config.compose import composer, resolved, store_choices
from cellzoo.run import checkpoints
from cellzoo.run import train as run_train
from cellzoo.run.build import settle_engine
from cellzoo.run.directory import LOCK, RESERVE, status
from cellzoo.run.learner import Learner
from cellzoo.system.locks import LockedError, hold

# A few batches an epoch; a value is logged every third.
SHORT = [
    "task=adding", "task.length=6", "task.train_size=200", "task.batch_size=20", "hidden_size=4",
    "logger=files", "trainer.log_every_n_steps=3", "trainer.max_epochs=3",
]  # fmt: skip
OFTEN = "save_every=0"

# Kills its process, once for each place that KILL names, as "train:12"; waits at those of WAIT.
DEADLY = """
import os
import signal
import time
from pathlib import Path

from cellzoo import register_task
from cellzoo.tasks import Adding


@register_task("deadly")
class Deadly(Adding):
    def measure(self, prediction, y):
        stage = self.trainer.state.stage.value
        here = f"{stage}:{self.trainer.global_step}"
        if here in os.environ.get("KILL", "").split() and not Path(f"{here}.killed").exists():
            Path(f"{here}.killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if here in os.environ.get("WAIT", "").split():
            Path("waits").touch()
            while not Path("go").exists():
                time.sleep(0.01)
        return super().measure(prediction, y)
"""

CASES = {
    "dropout": ["dropout=0.3", "num_layers=2", "scheduler=cosine", "optimizer=rmsprop"],
    "plateau": [
        "scheduler=plateau", "scheduler.patience=0", "trainer.max_epochs=5",
        "trainer.check_val_every_n_epoch=2",
    ],
    "early stopping": [
        "trainer.max_epochs=9", "early_stopping.patience=1", "early_stopping.min_delta=0.5",
    ],
    "max_steps": ["trainer.max_steps=25", "trainer.max_epochs=9"],
    "accumulated": ["+trainer.accumulate_grad_batches=3"],
    "validated within an epoch": [
        "+trainer.val_check_interval=0.5", "scheduler=step", "scheduler.step_size=1",
        "early_stopping.patience=4", "early_stopping.min_delta=0.5",
    ],
    "validated by steps": [
        "+trainer.val_check_interval=7", "trainer.check_val_every_n_epoch=null",
    ],
    "stopping late": [
        "trainer.max_epochs=5", "+trainer.min_epochs=4", "early_stopping.patience=1",
        "early_stopping.min_delta=0.5",
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Crash(Exception):
    pass


def train(*overrides: str, crash: int | None = None) -> None:
    """Train in this process; the crash-th batch of any kind raises."""
    code, _ = counted(lambda: main(["train", *SHORT, *overrides]), crash)
    assert code == (0 if crash is None else 1)


def counted(run: Callable[[], Any], crash: int | None) -> tuple[Any, int]:
    """What `run` returns, and the batches that it asked for; the crash-th of any kind raises."""
    asked = 0

    def step_of(step):
        def call(self, batch, index):
            nonlocal asked
            asked += 1
            if asked == crash:
                raise Crash
            return step(self, batch, index)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("training_step", "validation_step", "test_step"):
            patch.setattr(Learner, name, step_of(getattr(Learner, name)))
        return run(), asked


def checkpoint(run: str, name: str) -> dict:
    return torch.load(f"runs/{run}/checkpoints/{name}.ckpt", weights_only=True)


def assert_same_run(got: str, want: str) -> None:
    """Everything that a run computes, to the last bit."""
    mine, other = result_of(f"runs/{got}"), result_of(f"runs/{want}")
    for key in ("status", "metrics", "steps", "engine", "threads", "parameters"):
        assert mine[key] == other[key], key
    rows = Path(f"runs/{got}/metrics.csv").read_text()
    assert rows == Path(f"runs/{want}/metrics.csv").read_text()
    for name in ("best", "last"):
        a, b = checkpoint(got, name), checkpoint(want, name)
        assert (a["global_step"], a["epoch"]) == (b["global_step"], b["epoch"])
        for weight in b["state_dict"]:
            assert torch.equal(a["state_dict"][weight], b["state_dict"][weight]), (name, weight)
    for key in ("optimizer_states", "lr_schedulers", "callbacks"):
        assert str(checkpoint(got, "last")[key]) == str(checkpoint(want, "last")[key]), key


def starts(run: str) -> list[str]:
    return [attempt["resumed_from"] for attempt in result_of(f"runs/{run}")["attempts"]]


def crash_everywhere(monkeypatch, options: list[str], places: int) -> None:
    monkeypatch.setattr(checkpoints, "SHARE", 0)  # a checkpoint before every batch
    store_choices()
    with composer() as compose:  # once: it takes longer than such a run
        config = resolved(compose.compose([*SHORT, *options]))

    def run(name: str, crash: int | None = None, **changes: Any) -> int:
        """What the command does with its config, in this process; returns the batches asked."""
        settings, directory = replace(config, name=name, **changes), Path("runs", name)
        engine, _ = settle_engine(settings, directory)
        result, asked = counted(
            lambda: run_train.train(settings, directory, progress=False, engine=engine),
            crash,
        )
        assert result.status == ("done" if crash is None else "failed")
        return asked

    total = run("whole")
    for place in range(1, places + 1):
        crash = max(1, total * place // places)
        run("broken", crash, save_every=0)
        if crash < total - 4:
            run("broken", 2, save_every=0)  # and once more, a batch later
        run("broken", save_every=0)
        assert_same_run("broken", "whole")
        assert starts("broken")[0] == "the beginning"
        assert all(each.startswith("step ") for each in starts("broken")[1:])
        shutil.rmtree("runs/broken")


@pytest.mark.parametrize("case", CASES)
def test_it_ends_as_if_nothing_had_happened(case, monkeypatch):
    crash_everywhere(monkeypatch, CASES[case], places=2)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_ends_as_if_nothing_had_happened_anywhere(case, monkeypatch):
    crash_everywhere(monkeypatch, CASES[case], places=17)


@pytest.mark.slow
def test_kill_9_before_a_checkpoint_in_an_epoch_in_validation_and_in_the_test(tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    # Longer steps, so that checkpoints lie between the places; nothing else can be waited for.
    command = ["train", "--plugin", "deadly.py", *SHORT, "task=deadly", "logger=wandb",
               "dropout=0.2", "num_layers=2", "task.length=40"]  # fmt: skip
    assert processes.run([*command, "name=whole"], tmp_path) == 0
    places = "train:0 train:15 validate:20 train:27 test:30"
    for place in places.split():
        often = "save_every=inf" if place == "train:0" else OFTEN
        code = processes.run([*command, often, "name=broken"], tmp_path, KILL=places)
        assert code == -signal.SIGKILL
        assert result_of("runs/broken")["status"] == "running"
        assert status(Path("runs/broken")) == "interrupted"
    assert processes.run([*command, "name=broken"], tmp_path, KILL=places) == 0
    assert_same_run("broken", "whole")
    attempts = result_of("runs/broken")["attempts"]
    assert [each["ended"] for each in attempts] == ["killed"] * 5 + ["done"]
    assert starts("broken")[1] == "the beginning"
    assert starts("broken")[-1] == "step 30"
    # One W&B run, its history whole: what the undisturbed run has, row by row.
    seen, want = inspect(Path("runs/broken")), inspect(Path("runs/whole"))
    assert seen["run"]["run_id"] == result_of("runs/broken")["wandb"]
    named = [{k: v for k, v in item.items() if "/" in k} for item in seen["history"]]
    assert named == [{k: v for k, v in item.items() if "/" in k} for item in want["history"]]
    assert len(named) == len(metrics("runs/broken"))
    assert (seen["exit"], seen["config"]["status"]) == (0, "done")


@pytest.mark.parametrize(
    ("sent", "code", "reason"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")]
)
def test_a_run_that_is_stopped_goes_on(sent, code, reason, tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    command = ["train", "--plugin", "deadly.py", *SHORT, "task=deadly", "dropout=0.2",
               "num_layers=2", "save_every=inf"]  # fmt: skip
    assert processes.run([*command, "name=whole"], tmp_path) == 0
    process = processes.start([*command, "name=broken"], tmp_path, WAIT="train:17")
    wait_for(Path("waits").exists)
    assert status(Path("runs/broken")) == "running"
    os.kill(process.pid, sent)
    Path("go").touch()
    assert processes.finish(process) == code
    result = result_of("runs/broken")
    assert (result["status"], result["reason"]) == ("interrupted", reason)
    assert status(Path("runs/broken")) == "interrupted"
    assert processes.run([*command, "name=broken"], tmp_path) == 0
    assert_same_run("broken", "whole")
    # SIGTERM leaves a checkpoint wherever it comes; Ctrl-C is obeyed at once.
    assert (starts("broken")[1] == "the beginning") is (sent == signal.SIGINT)


def test_two_processes_do_not_share_a_directory(tmp_path, capsys):
    train("name=one", crash=5)
    with hold(Path("runs/one") / LOCK):
        before = result_of("runs/one")
        assert status(Path("runs/one")) == "running"
        assert main(["train", *SHORT, "name=one"]) == 2
        assert f"is in use by process {os.getpid()} on" in capsys.readouterr().err
        assert result_of("runs/one") == before
        with pytest.raises(LockedError), hold(Path("runs/one") / LOCK):
            pass
    assert (Path("runs/one") / LOCK).exists()  # stale: nobody holds it
    train("name=one")
    assert status(Path("runs/one")) == "done"


def test_another_run_is_refused(tmp_path, capsys):
    train("name=one", crash=5)
    for other, said in (
        ("optimizer.lr=0.02", "optimizer.lr=0.01, not 0.02"),
        ("seed=1", "seed=0, not 1"),
        ("trainer.devices=2", "trainer.devices=1, not 2"),
    ):
        assert main(["train", *SHORT, "name=one", other]) == 2
        assert f"holds another run ({said})" in capsys.readouterr().err
    # Where its data lies and what it is logged to are no part of it.
    train("name=one", "wandb.project=elsewhere", "data.root=.")


def test_an_edited_cell_is_another_run(tmp_path, capsys):
    command = ["train", "--plugin", "my_cell.py", *SHORT, "cell=leaky_lstm", "name=one", OFTEN,
               "engine=loop"]  # fmt: skip
    Path("my_cell.py").write_text(LEAKY)
    assert processes.run([*command, "trainer.max_epochs=2", "task.length=1"], tmp_path) == 2
    process = processes.start([*command, "trainer.max_epochs=900"], tmp_path)
    wait_for(lambda: Path("runs/one/checkpoints/last.ckpt").exists())
    process.kill()
    process.join()
    Path("my_cell.py").write_text(LEAKY.replace("0.9", "0.8"))
    assert processes.run([*command, "trainer.max_epochs=900"], tmp_path) == 2
    assert "the code of its cell was edited" in Path("said").read_text()
    assert status(Path("runs/one")) == "interrupted"


def test_a_diverged_run_is_not_tried_again(capsys):
    bad = ["optimizer=sgd", "optimizer.lr=1e38", "trainer.gradient_clip_val=null", "cell=elman",
           "cell.nonlinearity=relu", "engine=loop", "name=one"]  # fmt: skip
    assert main(["train", *SHORT, *bad]) == 1
    assert status(Path("runs/one")) == "diverged"
    assert main(["train", *SHORT, *bad]) == 2
    assert "holds this run, diverged" in capsys.readouterr().err
    assert len(result_of("runs/one")["attempts"]) == 1


@pytest.mark.parametrize("harm", ["last", "best", "metrics"])
def test_a_run_starts_over_where_its_files_are_of_no_use(harm, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", 0)
    train("name=whole")
    train("name=one", OFTEN, crash=25)
    if harm == "metrics":
        path = Path("runs/one/metrics.csv")
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    else:
        path = Path(f"runs/one/checkpoints/{harm}.ckpt")
        path.write_bytes(path.read_bytes()[:-100])
    train("name=one")
    assert_same_run("one", "whole")
    assert starts("one")[1].startswith("the beginning: the checkpoint is of no use (")
    assert Path("runs/one/attempts/1/checkpoints/last.ckpt").exists()
    assert Path("runs/one/attempts/1/metrics.csv").exists()


def test_engine_and_threads_are_those_of_the_first_attempt(monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", 0)
    threads = torch.get_num_threads()
    train("name=one", OFTEN, "engine=auto", crash=5)
    first = result_of("runs/one")
    assert first["engine"] != "auto"
    monkeypatch.setattr("cellzoo.RNN.settle_engine", lambda self: pytest.fail("settled again"))
    torch.set_num_threads(threads + 1)
    try:
        train("name=one", "engine=auto")
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    second = result_of("runs/one")
    assert (second["engine"], second["threads"]) == (first["engine"], threads)
    assert second["seconds"] > first["seconds"]


FAULTS = {
    "faulty_memory": ("torch.empty(1 << 60)", "RuntimeError: "),
    "faulty_pythons_memory": ("raise MemoryError", "MemoryError"),
    "faulty_exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "faulty_exception": ('raise KeyError("h")', "KeyError: 'h'"),
}


def test_what_goes_wrong_in_a_cell_is_the_reason():
    source = "import torch\n"
    for name, (code, _) in FAULTS.items():
        source += LEAKY.replace("leaky_lstm", name).replace(
            "    def update", f"    def project(self, x):\n        {code}\n\n    def update"
        )
    Path("my_cells.py").write_text(source)
    # A sweep, which looks at nothing beforehand, and whose other jobs go on.
    command = ["--plugin", "my_cells.py", "sweep", *SHORT, "engine=loop", "name=s"]
    assert main([*command, f"cell={','.join(FAULTS)},gru"]) == 1
    results = {result["cell"]: result for result in results_in("runs/s")}
    assert results["gru"]["status"] == "done"
    for name, (_, reason) in FAULTS.items():
        assert results[name]["status"] == "failed"
        assert results[name]["reason"].startswith(reason)
        assert results[name]["attempts"][-1]["ended"] == f"failed: {results[name]['reason']}"
        (run,) = Path("runs/s").glob(f"{name}-*/s0")
        assert status(run) == "failed"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs privileges")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_the_reason_and_the_run_goes_on_when_there_is_room(small_disk, tmp_path):
    train("name=whole", "hidden_size=32", "trainer.max_epochs=4")
    command = ["train", *SHORT, "hidden_size=32", "trainer.max_epochs=4", "name=one", OFTEN]
    filler = small_disk / "filler"
    filler.write_bytes(bytes(280 * 1024))
    assert processes.run(command, small_disk) == 1
    run = small_disk / "runs/one"
    result = result_of(run)
    assert result["status"] == "failed"
    assert "No space left on device" in result["reason"]
    assert status(run) == "failed"
    filler.unlink()
    assert processes.run(command, small_disk) == 0
    shutil.copytree(run, "runs/one")
    assert_same_run("one", "whole")
    assert not (run / RESERVE).exists()


def test_nothing_began_here(tmp_path):
    assert status(tmp_path / "runs/one") == "left"
    train("name=one")
    assert status(Path("runs/one")) == "done"
    record = json.loads(Path("runs/one/result.json").read_text())
    (attempt,) = record["attempts"]
    assert attempt["ended"] == "done"
