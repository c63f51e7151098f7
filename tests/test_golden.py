"""Runs that earlier versions wrote still load, compare and resume."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import metrics, result_of

import cellzoo
from cellzoo.cli import main

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
# Float32 products differ between CPUs, and training multiplies the difference.
LOADED = {"rtol": 0, "atol": 1e-5}
TRAINED = 1e-4


@pytest.fixture(params=VERSIONS)
def expected(request, tmp_path, monkeypatch) -> dict[str, Any]:
    """A copy of a version's folder as the working directory; returns its expected.json."""
    shutil.copytree(GOLDEN / request.param, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return json.loads(Path("expected.json").read_text())


def arguments_of(command: str) -> list[str]:
    return shlex.split(command)[1:]


def numbers(row: dict[str, str]) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if value}


def test_load_run_gives_the_recorded_outputs(expected):
    x = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert len(expected["outputs"]) == 4
    for directory, outputs in expected["outputs"].items():
        with torch.no_grad():
            got = cellzoo.load_run(directory)(x)
        torch.testing.assert_close(got, torch.tensor(outputs), **LOADED, msg=directory)


def test_an_rnn_loads_the_weights_of_a_checkpoint(expected):
    weights = torch.load("runs/whole/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    prefix = "model.rnn."
    rnn = cellzoo.RNN("gru", 8, 4, batch_first=True)
    rnn.load_state_dict(
        {key.removeprefix(prefix): w for key, w in weights.items() if key.startswith(prefix)}
    )
    model = cellzoo.load_run("runs/whole")
    x = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(rnn(x)[0], model.rnn(x)[0], **LOADED)


def test_compare_gives_the_recorded_means(expected):
    assert main(["compare", "runs/sweep", "--baseline", "lstm"]) == 0
    with Path("runs/sweep/compare/table.csv").open() as file:
        rows = {row["cell"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(expected["compared"])
    for cell, recorded in expected["compared"].items():
        assert int(rows[cell]["n"]) == recorded["n"]
        assert float(rows[cell]["mean"]) == pytest.approx(recorded["mean"], abs=1e-8)
        if recorded["difference"] is None:
            assert rows[cell]["difference"] == ""
        else:
            difference = float(rows[cell]["difference"])
            assert difference == pytest.approx(recorded["difference"], abs=1e-8)


def test_an_interrupted_run_resumes_to_the_end_of_the_whole_one(expected):
    checkpoint = torch.load("runs/interrupted/checkpoints/last.ckpt", weights_only=True)
    before = result_of("runs/interrupted")
    assert main(arguments_of(expected["commands"]["interrupted"])) == 0
    resumed, whole = result_of("runs/interrupted"), result_of("runs/whole")
    attempts = [
        (attempt.get("resumed_from", attempt.get("from")), attempt["ended"])  # "from": 0.1.0
        for attempt in resumed["attempts"]
    ]
    step = f"step {checkpoint['global_step']}"
    assert attempts == [("the beginning", "killed"), (step, "done")]
    for key in ("engine", "identity", "threads", "wandb"):
        assert resumed[key] == before[key], key
    for key in ("status", "steps", "parameters", "identity"):
        assert resumed[key] == whole[key], key
    assert resumed["metrics"] == pytest.approx(whole["metrics"], abs=TRAINED)
    got, want = metrics("runs/interrupted"), metrics("runs/whole")
    assert len(got) == len(want)
    for mine, other in zip(got, want, strict=True):
        assert numbers(mine) == pytest.approx(numbers(other), abs=TRAINED)


def test_a_finished_sweep_has_nothing_left_to_run(expected, capsys):
    results = {path: path.read_bytes() for path in Path("runs").rglob("result.json")}
    assert main(arguments_of(expected["commands"]["sweep"])) == 0
    assert "6 had ended before" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in Path("runs").rglob("result.json")} == results
    assert main(["sweep", "--status", "runs/sweep"]) == 0
    assert "complete" in capsys.readouterr().out
