"""Comparing runs from W&B, by the real client and a server on localhost."""

import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import wandb_stub

from cellzoo.compare import CompareError, main

ROOT = Path(__file__).resolve().parents[1]


def canned(cell: str, seed: int, accuracy: float, **changes) -> dict:
    config = {
        "name": "demo",
        "cell": cell,
        "cell.name": cell,
        "init": "torch",
        "task": "digits",
        "hidden_size": 8,
        "seed": seed,
        "optimizer.name": "adam",
        "optimizer.lr": 0.01,
        "parameters": 100,
        "monitor": "val/accuracy",
        "mode": "max",
        "seconds": 2.0,
        "status": "done",
    }
    summary = {
        "test/accuracy": accuracy,
        "val/accuracy": {"best": 0.1, "last": 0.2},
        "best/val/accuracy": accuracy + 0.01,
        "val/loss": {"max": 0.5},
        "trainer/global_step": 20,
        "_step": 40,
        "_wandb": {"runtime": 3},
    }
    history = [
        {"_step": i, "trainer/global_step": 10 * i, "val/accuracy": 0.1 * i} for i in range(1, 4)
    ]
    return wandb_stub.run(f"{cell}{seed}", "sweep", config | changes, summary, history)


def client(url: str, home: Path, code: str) -> subprocess.CompletedProcess:
    """Run `code` with a W&B client of the stub server."""
    inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = inherited | {
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "WANDB_BASE_URL": url,
        "WANDB_API_KEY": "0" * 40,
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_compare_reads_wandb(tmp_path):
    runs = [canned("lstm", seed, 0.9 + seed / 100) for seed in range(2)]
    runs += [canned("gru", seed, 0.8 + seed / 100) for seed in range(2)]
    runs.append(canned("elman", 0, 0.0, status="running"))
    runs.append(wandb_stub.run("other", "another sweep", {}, {}))
    code = """
from cellzoo.compare import CompareError, main
from cellzoo.compare.wandb_runs import read_wandb_runs, read_wandb_curves
main("--wandb lab/cells --group sweep --baseline gru --out report".split())
runs = read_wandb_runs("lab/cells", "sweep")
read_wandb_curves(runs, "val/accuracy").to_csv("curves.csv", index=False)
for path in ("lab/cells", "lab/nothing"):
    try:
        read_wandb_runs(path, "none" if path == "lab/cells" else None)
    except CompareError as error:
        print("ERROR", error)
"""
    with wandb_stub.serve(runs) as url:
        done = client(url, tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert "lab/cells, group none" in done.stdout
    assert "ERROR W&B lab/nothing" in done.stdout

    report = pandas.read_csv(tmp_path / "report" / "runs.csv").set_index("directory")
    assert sorted(report.index) == [
        f"lab/cells/{name}" for name in ("elman0", "gru0", "gru1", "lstm0", "lstm1")
    ]
    first = report.loc["lab/cells/lstm1"]
    # The value of the best checkpoint has precedence over the summary.
    assert first["val/accuracy"] == pytest.approx(0.92)
    assert first["val/loss"] == 0.5
    assert first["optimizer"] == "adam"
    assert "trainer/global_step" not in report

    table = pandas.read_csv(tmp_path / "report" / "table.csv")
    assert list(table["cell"]) == ["lstm", "gru"]
    assert table["mean"].tolist() == pytest.approx([0.905, 0.805])
    assert table["difference"][0] == pytest.approx(0.1)
    assert table["pairs"][0] == 2

    curves = pandas.read_csv(tmp_path / "curves.csv")
    lstm = curves[curves["directory"] == "lab/cells/lstm0"]
    assert lstm["step"].tolist() == [10, 20, 30]
    assert lstm["val/accuracy"].tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_wandb_path_is_checked_before_any_request():
    with pytest.raises(CompareError, match="entity/project"):
        main(["--wandb", "lab"])
