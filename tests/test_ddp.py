"""A run on several devices: one run, what one process would compute, and ended by its dead."""

import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from commands import as_a_user, inspect, metrics, result_of, wait_for
from hypothesis import given
from hypothesis import strategies as st

from cellzoo.config.identity import identity, world_size
from cellzoo.config.schema import RunConfig
from cellzoo.tasks.base import TrainingBatches

TROUBLE = """
import os
import signal
import time
from pathlib import Path

import torch

from cellzoo import Task, option, register_task
from cellzoo.tasks.base import Measure, PackedExamples


@register_task("trouble")
class Trouble(Task):
    input_size = 2
    output_size = 1
    reads = "every"
    how: str = option("none")

    def examples(self, split, epoch):
        draw = self.generator(split, epoch)
        lengths = [int(n) for n in torch.randint(2, 7, (103,), generator=draw)]
        x = [torch.rand(n, 2, generator=draw) for n in lengths]
        return PackedExamples(x, [each.sum(-1) for each in x])

    def measure(self, prediction, y):
        trainer = self.trainer
        error = prediction.squeeze(-1) - y.data
        loss = (error * error).mean()
        later = trainer.global_step >= 5
        if trainer.global_rank == 0 and trainer.training and later and self.how == "killed alone":
            time.sleep(1000)
        if trainer.global_rank == 1 and trainer.training and later:
            if self.how == "raises":
                raise RuntimeError("a rank is on fire")
            if self.how.startswith("killed") and not Path("killed").exists():
                Path("killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "exits":
                raise SystemExit(0)
            if self.how == "diverges":
                loss = loss * float("nan")
        if trainer.global_rank == 1 and not trainer.training and self.how == "diverges late":
            loss = loss * float("nan")
        count = len(y.data)
        return {"loss": Measure(loss, count), "error": Measure(error.abs().mean(), count)}
"""
COMMAND = [
    "train", "--plugin", "trouble.py", "task=trouble", "hidden_size=8", "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1",
]  # fmt: skip
DDP = ["trainer=ddp", "trainer.devices=2", "trainer.max_epochs=3", "trainer.log_every_n_steps=1"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trouble.py").write_text(TROUBLE)


def nobody_is_left(folder: Path) -> bool:
    """Whether no process works in the folder any more, but for this one.

    A checkout may be called cellzoo, and then this process's own interpreter says so, too.
    """
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            at, line = os.readlink(process / "cwd"), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if at == str(folder) and b"cellzoo" in line:
            return False
    return True


@given(
    size=st.integers(1, 60),
    batch=st.integers(1, 7),
    world=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_ranks_share_the_batches_of_one_process(size, batch, world, seed, data):
    with pytest.MonkeyPatch.context() as patch:

        def batches(size_of_batch, rank, world, first=0):
            patch.setattr("cellzoo.system.ranks.rank", lambda: rank)
            patch.setattr("cellzoo.system.ranks.world_size", lambda: world)
            return TrainingBatches(size, size_of_batch, seed, first)

        alone = list(batches(batch * world, 0, 1))
        shared = [batches(batch, rank, world) for rank in range(world)]
        number = len(shared[0])
        first = data.draw(st.integers(0, number))
        rest = list(batches(batch, world - 1, world, first))
        together = [list(chain(*parts)) for parts in zip(*map(list, shared), strict=True)]
    assert sorted(chain(*alone)) == list(range(size))
    assert together == alone[:number]
    assert all(len(left) < world for left in alone[number:])
    assert all(len(list(each)) == len(each) == number for each in shared)
    assert all(1 <= len(part) <= batch for each in shared for part in each)
    assert rest == list(shared[-1])[first:]
    assert list(shared[0]) == list(shared[0])  # however often it is begun


def test_the_number_of_ranks_is_part_of_a_run():
    def run(**trainer):
        defaults = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "max_epochs": 3}
        return RunConfig.from_mapping({"seed": 0, "trainer": {**defaults, **trainer}})

    one = identity(run())
    assert identity(run(strategy="ddp")) == one
    assert identity(run(devices="auto")) == one
    two = identity(run(devices=2, strategy="ddp"))
    assert two != one
    assert identity(run(devices=[0, 3], accelerator="gpu", strategy="ddp")) == two
    assert identity(run(devices="2", strategy="ddp")) == two
    assert identity(run(devices=1, num_nodes=2, strategy="ddp")) == two
    assert world_size(run(devices=3).trainer) == 3


@pytest.mark.slow
def test_two_ranks_are_one_run_and_train_as_one_process_does(tmp_path):
    exact = "trainer.precision=64-true"
    for name, options in (
        ("one", ["task.batch_size=20", "logger=files"]),
        ("two", [*DDP, "task.batch_size=10"]),
    ):
        done = as_a_user(*COMMAND, *options, exact, f"name={name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (result_of(f"runs/{name}") for name in ("one", "two"))
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert one["steps"] == two["steps"] == 3 * 6
    assert one["identity"] != two["identity"]
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-12)
    for name in ("best", "last"):
        a, b = (
            torch.load(f"runs/{run}/checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
            for run in ("one", "two")
        )
        for weight in a:
            torch.testing.assert_close(b[weight], a[weight], rtol=1e-12, atol=1e-12)
    # metrics.csv is that of the whole batch, whichever rank an example lay on.
    mine, other = metrics("runs/two"), metrics("runs/one")
    assert len(mine) == len(other)
    for a, b in zip(mine, other, strict=True):
        assert {k: float(v) for k, v in a.items() if v} == pytest.approx(
            {k: float(v) for k, v in b.items() if v}, rel=1e-9
        )
    seen = inspect(Path("runs/two"))  # which finds one file
    assert len(seen["history"]) == len(mine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("raises", "failed", "rank 1: RuntimeError: a rank is on fire"),
        ("killed", "failed", "rank 1 was killed by signal 9"),
        ("killed alone", "failed", "rank 1 was killed by signal 9"),  # and rank 0 never notices
        ("exits", "failed", "rank 1: SystemExit: 0"),
        ("diverges", "diverged", "the train loss is not finite at step 5"),
        ("diverges late", "diverged", "the val loss is not finite at step 2"),
    ],
)
def test_what_happens_to_one_rank_ends_the_run(how, status, reason, tmp_path):
    begun = time.monotonic()
    options = ["logger=files", "name=one", f"task.how='{how}'"]
    done = as_a_user(*COMMAND, *DDP, *options, cwd=tmp_path)
    assert time.monotonic() - begun < 120  # torch's own limit is half an hour
    assert done.returncode == 1
    result = result_of("runs/one")
    assert (result["status"], result["reason"]) == (status, reason)
    assert result["attempts"][-1]["ended"] == f"{status}: {reason}"
    assert nobody_is_left(tmp_path)


@pytest.mark.slow
def test_two_ranks_go_on_where_one_was_killed_and_where_both_were(tmp_path):
    options = [*COMMAND, *DDP, "logger=files", "task.how=killed", "save_every=0", "num_layers=2",
               "dropout=0.3", "trainer.max_epochs=40"]  # fmt: skip
    (tmp_path / "killed").touch()
    assert as_a_user(*options, "name=whole", cwd=tmp_path).returncode == 0
    (tmp_path / "killed").unlink()
    assert as_a_user(*options, "name=broken", cwd=tmp_path).returncode == 1
    assert result_of("runs/broken")["reason"] == "rank 1 was killed by signal 9"

    checkpoint = Path("runs/broken/checkpoints/last.ckpt")
    before = checkpoint.stat().st_mtime if checkpoint.exists() else 0.0
    process = subprocess.Popen(
        [sys.executable, "-m", "cellzoo", *options, "name=broken"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: checkpoint.exists() and checkpoint.stat().st_mtime > before)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: nobody_is_left(tmp_path))  # the other rank ends by itself
    assert result_of("runs/broken")["status"] == "running"

    assert as_a_user(*options, "name=broken", cwd=tmp_path).returncode == 0
    assert result_of("runs/broken")["metrics"] == result_of("runs/whole")["metrics"]
    assert Path("runs/broken/metrics.csv").read_text() == Path("runs/whole/metrics.csv").read_text()
    a, b = (
        torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
        for name in ("broken", "whole")
    )
    for weight in b["state_dict"]:
        assert torch.equal(a["state_dict"][weight], b["state_dict"][weight])
    # Each rank has dropout masks of its own.
    first, second = (states["torch"] for states in b["cellzoo"]["generators"])
    assert not torch.equal(first, second)
    assert len(result_of("runs/broken")["attempts"]) == 3
