"""Runs long enough to learn: what the README promises."""

import os
from pathlib import Path

import pytest
from commands import LEAKY, as_a_user, result_of

DATA = Path(os.environ.get("CELLZOO_DATA", "nowhere"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_ten_line_cell_learns_to_add(seed, tmp_path):
    (tmp_path / "my_cell.py").write_text(LEAKY)
    command = ["train", "--plugin", "my_cell.py", "cell=leaky_lstm", "task=adding", f"seed={seed}"]
    done = as_a_user(*command, "trainer.max_epochs=10", "name=one", "logger=files", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # The constant predictor's mean squared error is 1/6; the preset's 30 epochs go far below.
    assert result_of(tmp_path / "runs/one")["metrics"]["test/loss"] < 1 / 6 / 3


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "jsb").exists(), reason="CELLZOO_DATA holds no JSB Chorales")
def test_the_jsb_preset_reaches_its_figure(tmp_path):
    command = ["train", "experiment=jsb", "seed=1", "name=one", "logger=files"]
    done = as_a_user(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "runs/one")
    assert result["parameters"] == 4 * 36 * (88 + 36 + 2) + 36 * 88 + 88
    assert result["metrics"]["test/loss"] < 8.8  # measured: 8.67


@pytest.mark.slow
def test_lstm_and_gru_read_digits(tmp_path):
    command = ["sweep", "task=digits", "cell=lstm,gru", "hidden_size=64", "seed=0", "name=digits"]
    done = as_a_user(*command, "logger=files", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "runs/digits").rglob("result.json"):
        assert result_of(path.parent)["metrics"]["test/accuracy"] > 0.9
