"""Parameter-matched models, against trying every size."""

from functools import cache

import pytest
from commands import assert_refused, result_of, results_in
from hypothesis import given
from hypothesis import strategies as st

import cellzoo
from cellzoo.config.checks import ConfigError
from cellzoo.config.compose import composer, resolved, store_choices
from cellzoo.run.budget import apply_budget, hidden_size_for
from cellzoo.run.model import SequenceModel


def parameters(cell: str, hidden_size: int, layers: int, **options) -> int:
    rnn = cellzoo.RNN(cell, 8, hidden_size, layers, **options)
    return sum(p.numel() for p in SequenceModel(rnn, 10, "last").parameters())


def by_trying(budget: int, count, sizes) -> int:
    counts = {}
    for size in sizes:
        try:
            counts[size] = count(size)
        except ValueError:
            continue
    return min(counts, key=lambda size: (abs(counts[size] - budget), size))


@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 40), st.integers(0, 20_000))
def test_the_search_finds_what_trying_all_does(slope, heads, least, more):
    def count(size):
        if size % heads or size <= least:
            raise ValueError("not such a size")
        return slope * size + size * size // 3

    smallest = heads * (least // heads + 1)
    budget = count(smallest) + more
    assert hidden_size_for(budget, count) == by_trying(budget, count, range(1, 400))


@pytest.mark.parametrize("cell", cellzoo.list_cells())
def test_every_cell_comes_as_near_as_it_can(cell):
    count = cache(lambda size: parameters(cell, size, 2))
    budgets = [budget for budget in (500, 3001) if count(1) <= budget]
    if not budgets:
        pytest.skip("has parameters beside hidden_size's")
    store_choices()
    with composer() as compose:
        for budget in budgets:
            config = resolved(compose.compose([f"cell={cell}", f"budget={budget}", "num_layers=2"]))
            assert apply_budget(config).hidden_size == by_trying(budget, count, range(1, 60))


def test_both_are_recorded_and_runs_are_compared(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = ["trainer.max_epochs=1", "logger=files", "task=digits", "engine=loop"]
    from cellzoo.cli import main

    both = ["cell=lstm,gru", "budget=900", "seed=0,1", "name=s", "launcher=inprocess"]
    assert main(["sweep", *tiny, *both]) == 0
    sizes = {r["cell"]: (r["hidden_size"], r["parameters"]) for r in results_in("runs/s")}
    assert sizes == {"lstm": (10, 910), "gru": (12, 922)}
    (run,) = (tmp_path / "runs/s").glob("gru-*/s0")
    assert "budget: 900\n" in (run / "config.yaml").read_text()
    assert main(["compare", "runs/s", "--baseline", "lstm"]) == 0
    assert "gru" in capsys.readouterr().out
    assert main(["train", *tiny, "cell=gru", "budget=900", "name=one"]) == 0
    assert result_of("runs/one")["parameters"] == 922


def test_what_cannot_be_is_refused(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    assert_refused(["train", "budget=900", "hidden_size=3"], "say one of the two", capfd)
    assert_refused(["sweep", "budget=9", "cell=gru"], "is too small: with hidden_size=1", capfd)
    assert_refused(["train", "budget=many"], "budget must be a whole number, not 'many'", capfd)
    with pytest.raises(ConfigError, match="too small"):
        hidden_size_for(9, lambda size: 10 * size)
