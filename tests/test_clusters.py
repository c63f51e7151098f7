"""Sweeps by Slurm and by Ray, with real processes on one machine.

Slurm's own test runs where `tests/start_slurm.sh` was run before and CELLZOO_SLURM=1 is set.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from commands import TINY, as_a_user, assert_refused, result_of, results_in, start, wait_for

ARGUMENTS = [*TINY, "seed=0,1"]
LONG = ["task=digits", "hidden_size=16", "trainer.max_epochs=40", "logger=files", "save_every=0.2"]


def job_processes(folder: Path) -> list[int]:
    """Return the processes that run orders of a sweep."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "cellzoo.sweep.launchers.job" in words and any(str(folder) in word for word in words):
            found.append(int(entry.name))
    return found


def test_invalid_settings_are_refused(tmp_path, monkeypatch, capfd):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    slurm = ["sweep", *ARGUMENTS, "name=x", "launcher=slurm"]
    assert_refused([*slurm, "launcher.cluster=pbs"], "slurm or local", capfd)
    assert_refused([*slurm, "launcher.jobs=0"], "launcher.jobs must be a whole number", capfd)
    assert_refused(
        [*slurm, "launcher.retries=-1"], "launcher.retries must be a whole number from 0", capfd
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_refused(slurm, "squeue does not answer", capfd)
    assert not list(Path("runs").rglob("result.json"))


@pytest.mark.slow
def test_slurms_jobs_by_processes_in_its_place(tmp_path):
    pytest.importorskip("submitit")
    local = ["name=s", "launcher=slurm", "launcher.cluster=local", "launcher.poll=0.2"]
    local += ["launcher.jobs=2", *ARGUMENTS]
    done = as_a_user("sweep", *local, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    pooled = as_a_user("sweep", "name=p", *ARGUMENTS, cwd=tmp_path)
    assert pooled.returncode == 0, pooled.stderr
    for mine, theirs in zip(
        results_in(tmp_path / "runs/s"), results_in(tmp_path / "runs/p"), strict=True
    ):
        assert mine["metrics"] == theirs["metrics"]
    again = as_a_user("sweep", *local, cwd=tmp_path)
    assert "2 had ended before" in again.stdout


@pytest.mark.slow
def test_a_killed_job_is_retried(tmp_path):
    pytest.importorskip("submitit")
    local = ["launcher=slurm", "launcher.cluster=local", "launcher.poll=0.2"]
    sweep = start("sweep", "name=s", *local, *LONG, "trainer.max_epochs=12", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/s/*/*/checkpoints/last.ckpt")), sweep)
    (process,) = job_processes(tmp_path)
    os.kill(process, signal.SIGKILL)
    output, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, output
    (directory,) = tmp_path.glob("runs/s/*/s0")
    killed, done = result_of(directory)["attempts"]
    assert (killed["ended"], done["ended"]) == ("killed", "done")
    assert done["resumed_from"].startswith("step")


@pytest.mark.slow
@pytest.mark.skipif("CELLZOO_SLURM" not in os.environ, reason="CELLZOO_SLURM is not set")
def test_slurm_preempts_and_the_sweep_is_killed(tmp_path):
    arguments = ["name=s", "launcher=slurm", "launcher.partition=low", "launcher.poll=1"]
    arguments += ["launcher.jobs=2", "launcher.time=5", "cell=lstm,elman", "seed=0,1", *LONG]
    sweep = start("sweep", *arguments, cwd=tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("runs/s/*/*/checkpoints/last.ckpt"))) == 2, sweep)
    subprocess.run(["srun", "-p", "high", "-n2", "sleep", "2"], check=True, timeout=120)
    wait_for(lambda: "PD" in queue("%t"), sweep)
    sweep.kill()
    sweep.wait()
    for job in queue("%i"):  # Slurm would wait two minutes
        subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], check=True)
    again = start("sweep", *arguments, cwd=tmp_path)
    output, _ = again.communicate(timeout=400)
    assert again.returncode == 0, output
    attempts = [result["attempts"] for result in results_in(tmp_path / "runs/s")]
    assert sorted(map(len, attempts)) == [1, 1, 2, 2]  # two were preempted, none submitted twice
    for preempted, done in (each for each in attempts if len(each) == 2):
        assert preempted["ended"] == "interrupted: SIGTERM"
        assert done["resumed_from"].startswith("step")


def queue(fields: str) -> list[str]:
    command = ["squeue", "--me", "--noheader", "--array", f"--format={fields}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def two_nodes():
    """Yield the address of a Ray cluster of two nodes here, and a function that ends the second."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    yield cluster.address, lambda: cluster.remove_node(second, allow_graceful=False)
    cluster.shutdown()


@pytest.mark.slow
def test_ray_moves_a_job_when_its_node_dies(tmp_path, two_nodes):
    address, end_second = two_nodes
    there = ["launcher=ray", f"launcher.address={address}"]
    sweep = start("sweep", "name=r", *there, "seed=0,1,2", *LONG, cwd=tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("runs/r/*/*/checkpoints/last.ckpt"))) == 2, sweep)
    end_second()
    output, _ = sweep.communicate(timeout=400)
    assert sweep.returncode == 0, output
    assert "2 nodes; 2 jobs at once" in output
    results = results_in(tmp_path / "runs/r")
    assert [result["status"] for result in results] == ["done"] * 3
    assert sum(len(result["attempts"]) for result in results) == 4
    assert not job_processes(tmp_path)


@pytest.mark.slow
def test_ray_without_a_cluster_is_refused(tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # nobody listens, and nobody else takes it
        address = f"launcher.address=127.0.0.1:{free.getsockname()[1]}"
        done = as_a_user("sweep", "name=r", "launcher=ray", address, *ARGUMENTS, cwd=tmp_path)
    assert done.returncode == 2
    assert "no cluster at" in done.stderr
