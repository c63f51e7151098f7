"""The comparison: reading, tables, pairs, intervals, selections, plots and files."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy
import pandas
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console
from scipy.stats import bootstrap

from cellzoo.compare import CompareError, compare, main, read_curves, read_runs
from cellzoo.compare.keys import value_text
from cellzoo.compare.select import select_runs
from cellzoo.compare.statistics import mean_interval, mean_intervals, paired_differences
from cellzoo.system.files import write_whole


def make_run(root: Path, test: float | None = 0.9, val: float | None = None, **changes) -> Path:
    """Write a run directory as `cellzoo train` does; `changes` are flat config keys."""
    keys = {"cell": "lstm", "init": "torch", "task": "digits", "optimizer": "adam"}
    keys |= {"hidden_size": 8, "num_layers": 1, "seed": 0, "optimizer.lr": 0.01}
    status = changes.pop("status", "done")
    result_changes = changes.pop("result", {})
    keys |= changes
    config: dict = {"name": "demo", "init": {"forget_bias": None}, "data": {"root": str(root)}}
    for key, value in keys.items():
        section, dot, option = key.partition(".")
        if dot or section in ("cell", "init", "task", "optimizer"):
            config.setdefault(section, {})[option if dot else "name"] = value
        else:
            config[key] = value
    done = status == "done"
    metrics = {"test/accuracy": test, "test/loss": 1 - test} if done else {}
    if done:
        metrics |= {"val/accuracy": test if val is None else val, "val/loss": 0.5}
    result = {key: keys[key] for key in ("cell", "task", "init", "hidden_size", "seed")}
    result |= {"status": status, "reason": None, "step": 30, "parameters": 100, "steps": 30}
    result |= {"metrics": metrics, "monitor": "val/accuracy", "mode": "max", "seconds": 2.0}
    result |= {"steps_per_second": 15.0, "cellzoo": "0.1.0", "torch": "2.13.0"} | result_changes
    name = "-".join(f"{key}={value}" for key, value in keys.items() if "/" not in str(value))
    directory = root / name / status
    directory.mkdir(parents=True)
    (directory / "result.json").write_text(json.dumps(result))
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    end = 0.5 if test is None else test
    (directory / "metrics.csv").write_text(
        "epoch,step,train/loss,val/accuracy,val/loss\n"
        "0,5,0.9,,\n"
        f"0,10,,{end / 2},0.7\n"
        f"1,20,,{end},0.5\n"
    )
    return directory


def sweep(root: Path, values: dict[str, list[float]], key: str = "cell", **changes) -> Path:
    for name, tests in values.items():
        for seed, test in enumerate(tests):
            make_run(root, test, seed=seed, **{key: name}, **changes)
    return root


def table_of(directory: Path, **options):
    return compare(directory, draw=False, **options)


def row(comparison, **where) -> pandas.Series:
    rows = comparison.tables[0].rows
    for key, value in where.items():
        rows = rows[rows[key] == value]
    assert len(rows) == 1
    return rows.iloc[0]


# Reading


def test_read_runs_has_a_row_for_each_run_with_every_config_key(tmp_path):
    directory = make_run(tmp_path, 0.9, **{"optimizer.lr": 0.003, "init.forget_bias": 1.0})
    attempt = tmp_path / "x" / "attempts" / "1"
    attempt.mkdir(parents=True)
    (attempt / "result.json").write_text("torn {")
    runs = read_runs(tmp_path)
    assert len(runs) == 1
    expected = {
        "directory": str(directory),
        "status": "done",
        "cell": "lstm",
        "cell.name": "lstm",
        "optimizer": "adam",
        "optimizer.lr": 0.003,
        "init.forget_bias": 1.0,
        "num_layers": 1,
        "test/accuracy": 0.9,
        "parameters": 100,
    }
    assert {key: runs[key][0] for key in expected} == expected


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("result.json", '{"status": "done", ', "not readable JSON"),
        ("result.json", '{"status": "done"}', "lacks cell, init"),
        ("result.json", "[]", "does not hold a mapping"),
        ("result.json", '{"status": "finished"}', "'finished'"),
        ("config.yaml", "cell: {name: ", "not readable YAML"),
        ("config.yaml", "", "does not hold a mapping"),
        ("config.yaml", None, "not readable YAML"),
    ],
)
def test_a_broken_run_raises_one_line_with_its_file(tmp_path, file, text, message):
    sweep(tmp_path, {"gru": [0.5]})
    path = make_run(tmp_path) / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(CompareError, match=message) as caught:
        compare(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_done_run_without_the_metric_is_named(tmp_path):
    sweep(tmp_path, {"gru": [0.5, 0.6]})
    broken = make_run(tmp_path, 0.5, result={"metrics": {"val/accuracy": 0.5}})
    with pytest.raises(CompareError, match=re.escape(f"{broken}: a done run without test/acc")):
        compare(tmp_path)


def test_curves_are_sparse_rows_and_the_later_of_repeated_steps(tmp_path):
    directory = make_run(tmp_path)
    (directory / "metrics.csv").write_text(
        "step,train/loss,val/accuracy\n10,,0.1\n20,,0.3\n20,0.4,\n20,,0.2\n30,,0.5\n"
    )
    curve = read_curves([directory], "val/accuracy")
    assert curve[["step", "val/accuracy"]].values.tolist() == [[10, 0.1], [20, 0.2], [30, 0.5]]
    assert set(curve["directory"]) == {str(directory)}
    with pytest.raises(CompareError, match=r"metrics\.csv.*did you mean 'val/accuracy'"):
        read_curves([directory], "val/acuracy")
    (directory / "metrics.csv").write_text("step,val/accuracy\n10,0.1\n20,0.1,7,8\n")
    with pytest.raises(CompareError, match=r"metrics\.csv is not a readable table"):
        read_curves([directory], "val/accuracy")


def test_nothing_to_compare_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(CompareError, match="cellzoo sweep"):
        compare(tmp_path / "absent")
    with pytest.raises(CompareError, match=r"no result\.json"):
        compare(tmp_path)
    make_run(tmp_path, status="running")
    with pytest.raises(CompareError, match="no run is done: 1 running"):
        compare(tmp_path)


@pytest.mark.parametrize("option", ["by", "select"])
def test_an_unknown_key_names_the_nearest(tmp_path, option):
    make_run(tmp_path)
    with pytest.raises(CompareError, match=r"'optimiser\.lr'; did you mean 'optimizer\.lr'"):
        compare(tmp_path, **{option: "optimiser.lr" if option == "select" else ["optimiser.lr"]})


def test_an_unknown_metric_names_the_nearest(tmp_path):
    make_run(tmp_path)
    with pytest.raises(CompareError, match="did you mean 'test/accuracy'"):
        compare(tmp_path, metric="test/acuracy")
    with pytest.raises(CompareError, match="no metric 'seed'"):
        compare(tmp_path, metric="seed")
    assert table_of(tmp_path, metric="seconds").tables[0].mode == "min"


# Tables


def test_table_by_hand(tmp_path):
    sweep(tmp_path, {"gru": [0.80, 0.82, 0.84], "lstm": [0.90, 0.91, 0.95]})
    make_run(tmp_path, cell="gru", seed=3, status="diverged")
    make_run(tmp_path, cell="gru", seed=4, status="failed", result={"parameters": None})
    make_run(tmp_path, cell="lstm", seed=5, status="running", result={"metrics": None})
    comparison = table_of(tmp_path)
    (table,) = comparison.tables
    assert table.metric == "test/accuracy"
    assert table.rows["cell"].tolist() == ["lstm", "gru"]
    gru = row(comparison, cell="gru")
    assert gru[["n", "diverged", "failed", "parameters_min"]].tolist() == [3, 1, 1, 100]
    assert gru["mean"] == pytest.approx(0.82)
    assert gru["best"] == 0.84
    assert gru["seconds"] == 2.0
    assert 0.80 <= gru["low"] < 0.82 < gru["high"] <= 0.84
    text = " ".join(table.notes)
    assert "8 runs, 1 diverged, 1 failed; 1 unfinished left out" in text
    assert "differ in seed" in text


def test_a_group_without_a_done_run_comes_last(tmp_path):
    sweep(tmp_path, {"lstm": [0.9, 0.91]})
    make_run(tmp_path, cell="elman", status="diverged")
    comparison = compare(tmp_path, baseline="lstm")
    elman = comparison.tables[0].rows.iloc[-1]
    assert elman[["cell", "n", "diverged", "pairs"]].tolist() == ["elman", 0, 1, 0]
    assert numpy.isnan(elman["mean"])


def test_less_is_better_for_a_loss(tmp_path):
    sweep(tmp_path, {"gru": [0.8, 0.82], "lstm": [0.9, 0.93]})
    comparison = table_of(tmp_path, metric="test/loss")
    assert comparison.tables[0].mode == "min"
    assert comparison.tables[0].rows["cell"].tolist() == ["lstm", "gru"]
    assert row(comparison, cell="lstm")["best"] == pytest.approx(0.07)


def test_an_unknown_direction_must_be_given(tmp_path):
    result = {"metrics": {"test/gap": 1.0, "val/accuracy": 0.5}}
    make_run(tmp_path, result=result)
    with pytest.raises(CompareError, match="--mode"):
        table_of(tmp_path, metric="test/gap")
    assert table_of(tmp_path, metric="test/gap", mode="min").tables[0].mode == "min"


def test_every_task_has_a_table(tmp_path):
    sweep(tmp_path, {"gru": [0.8], "lstm": [0.9]})
    sweep(tmp_path, {"gru": [0.3], "lstm": [0.2]}, task="adding", **{"task.length": 100})
    sweep(tmp_path, {"gru": [0.1], "lstm": [0.0]}, task="adding", **{"task.length": 500})
    comparison = compare(tmp_path)
    assert {table.task: table.rows["cell"][0] for table in comparison.tables} == {
        "adding, task.length = 100": "gru",
        "adding, task.length = 500": "gru",
        "digits": "lstm",
    }
    names = {path.name for path in comparison.paths}
    assert {"dots-digits.png", "curves-adding-task.length=500.svg", "table.csv"} <= names
    assert len(pandas.read_csv(tmp_path / "compare" / "table.csv")) == 6


def test_by_a_number_sorts_and_labels_it(tmp_path):
    sweep(tmp_path, {8: [0.5, 0.5], 16: [0.5, 0.5]}, key="hidden_size")
    comparison = table_of(tmp_path, by=["hidden_size", "optimizer.name"])
    rows = comparison.tables[0].rows
    assert rows["hidden_size"].tolist() == ["8", "16"]  # a tie stays in the order of values
    assert rows["optimizer"].tolist() == ["adam", "adam"]
    assert rows[["low", "high"]].to_numpy().tolist() == [[0.5, 0.5]] * 2


# Pairing


def test_pairs_are_equal_in_seed_and_every_other_setting(tmp_path):
    for init, shift in (("torch", 0.0), ("chrono", 0.3)):
        sweep(tmp_path, {"lstm": [0.1 + shift, 0.2 + shift, 0.3 + shift]}, init=init)
        sweep(tmp_path, {"gru": [0.2 + shift, 0.4 + shift]}, init=init)
    make_run(tmp_path, 0.99, cell="gru", seed=7)  # a seed that lstm lacks
    comparison = table_of(tmp_path, baseline="lstm")
    gru = row(comparison, cell="gru")
    assert gru["pairs"] == 4
    assert gru["difference"] == pytest.approx((0.1 + 0.2 + 0.1 + 0.2) / 4)
    assert pandas.isna(row(comparison, cell="lstm")["pairs"])
    assert "equal in seed, init" in " ".join(comparison.tables[0].notes)


def test_a_baseline_of_one_key_keeps_the_others(tmp_path):
    values = {"torch": (0.1, 0.2), "chrono": (0.5, 0.9)}
    for init, (lstm, gru) in values.items():
        sweep(tmp_path, {"lstm": [lstm, lstm], "gru": [gru, gru]}, init=init)
    comparison = table_of(tmp_path, by=["cell", "init"], baseline="lstm")
    assert row(comparison, cell="gru", init="torch")["difference"] == pytest.approx(0.1)
    assert row(comparison, cell="gru", init="chrono")["difference"] == pytest.approx(0.4)
    comparison = table_of(tmp_path, by=["cell", "init"], baseline="cell=lstm,init=torch")
    assert row(comparison, cell="gru", init="chrono")["difference"] == pytest.approx(0.8)
    assert row(comparison, cell="lstm", init="chrono")["difference"] == pytest.approx(0.4)


def test_options_of_the_compared_section_and_matched_widths_do_not_hinder_pairs(tmp_path):
    sweep(tmp_path, {"lstm": [0.1, 0.2]}, **{"cell.proj_size": 0, "hidden_size": 8})
    sweep(tmp_path, {"gru": [0.2, 0.3]}, **{"cell.reset_after": True, "hidden_size": 9})
    comparison = table_of(tmp_path, baseline="lstm")
    assert row(comparison, cell="gru")["pairs"] == 2
    assert "hidden_size differ from group to group" in " ".join(comparison.tables[0].notes)


def test_settings_that_never_meet_make_no_pairs(tmp_path):
    for lr in (0.1, 0.2):
        sweep(tmp_path, {"lstm": [0.1]}, **{"optimizer.lr": lr})
        sweep(tmp_path, {"gru": [0.1]}, **{"optimizer.lr": lr + 1})
    comparison = table_of(tmp_path, baseline="lstm")
    assert row(comparison, cell="gru")["pairs"] == 0
    assert "there are no such pairs" in " ".join(comparison.tables[0].notes)


def test_a_wrong_baseline_names_the_nearest(tmp_path):
    sweep(tmp_path, {"lstm": [0.1], "gru": [0.2]})
    with pytest.raises(CompareError, match="did you mean 'lstm'"):
        table_of(tmp_path, baseline="lstn")
    with pytest.raises(CompareError, match="not a key of --by"):
        table_of(tmp_path, baseline="init=torch")


# Statistics. Quarters, so that shifts and sums are exact.

quarters = st.integers(-400, 400).map(lambda n: n / 4)
samples = st.lists(quarters, min_size=2, max_size=8)
quick = settings(max_examples=25, deadline=None)


@quick
@given(samples)
def test_interval_contains_the_mean_and_stays_inside_the_data(values):
    low, high = mean_interval(values, resamples=999)
    slack = 1e-6 * (1 + numpy.ptp(values))
    assert min(values) - slack <= low <= numpy.mean(values) + slack
    assert numpy.mean(values) - slack <= high <= max(values) + slack


@quick
@given(samples, st.integers(-1000, 1000))
def test_interval_moves_with_the_data(values, shift):
    low, high = mean_interval(values, resamples=999)
    moved = mean_interval([value + shift for value in values], resamples=999)
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-9)


@quick
@given(samples.flatmap(lambda values: st.tuples(st.just(values), st.permutations(values))))
def test_interval_does_not_depend_on_the_order(pair):
    values, permuted = pair
    assert mean_interval(values, resamples=999) == mean_interval(permuted, resamples=999)


def test_interval_is_scipys():
    values = numpy.array([0.1, 0.5, 0.55, 0.7, 0.72, 0.9])
    rng = numpy.random.default_rng(0)
    scipys = bootstrap((values,), numpy.mean, n_resamples=9999, rng=rng).confidence_interval
    assert mean_interval(values) == pytest.approx((scipys.low, scipys.high), abs=2e-3)


@pytest.mark.filterwarnings("error")
def test_intervals_of_one_value_and_of_equal_values():
    assert numpy.isnan(mean_interval([0.5])).all()
    assert numpy.isnan(mean_interval([])).all()
    assert mean_interval([0.1, 0.1, 0.1]) == (0.1, 0.1)
    assert numpy.isnan(mean_interval([numpy.inf, numpy.inf, 1.0])).all()
    low, high = mean_intervals(numpy.array([[1.0, 0.3], [2.0, 0.3], [4.0, 0.3]]), 999)
    assert low[0] < 7 / 3 < high[0]
    assert (low[1], high[1]) == (0.3, 0.3)


def frame_of(values: dict[int, float]) -> pandas.DataFrame:
    return pandas.DataFrame({"seed": list(values), "m": list(values.values())})


seeded = st.dictionaries(st.integers(0, 6), quarters, max_size=7)


@quick
@given(seeded, seeded)
def test_paired_differences_use_common_seeds_only(left, right):
    differences = paired_differences(frame_of(left), frame_of(right), "m", ["seed"])
    expected = [left[seed] - right[seed] for seed in left.keys() & right.keys()]
    assert sorted(differences) == sorted(expected)
    reverse = paired_differences(frame_of(right), frame_of(left), "m", ["seed"])
    assert sorted(-reverse) == sorted(differences)


def test_texts_are_equal_if_and_only_if_values_are_equal():
    assert value_text(32) == value_text(32.0) == value_text(numpy.int64(32)) == "32"
    assert value_text(None) == value_text(float("nan")) == "null"
    assert value_text(0.1234567) != value_text(0.12345678)
    assert value_text(True) == value_text(numpy.True_) == "true"


# Selection


def trial(cell: str, lr: float, seed: int, val: float, test: float, status: str = "done") -> dict:
    scores = {"val/accuracy": val, "test/accuracy": test} if status == "done" else {}
    row = {"cell": cell, "optimizer.lr": lr, "seed": seed, "status": status, "task": "digits"}
    return (
        row | {"monitor": "val/accuracy", "mode": "max", "directory": f"{cell}{lr}{seed}"} | scores
    )


def test_select_by_validation_counts_divergence_as_worst(tmp_path):
    for lr, vals in {0.1: [0.99, None], 0.01: [0.5, 0.7], 0.001: [0.5, 0.6]}.items():
        for seed, val in enumerate(vals):
            status = "diverged" if val is None else "done"
            make_run(tmp_path, 0.1, val, seed=seed, status=status, **{"optimizer.lr": lr})
    comparison = table_of(tmp_path, select="optimizer.lr")
    only = row(comparison, cell="lstm")
    assert only["selected optimizer.lr"] == "0.01"
    assert only["n"] == 2
    assert "3 values, 6 runs" in " ".join(comparison.tables[0].notes)
    assert len(comparison.runs) == 6


def test_select_then_pair_each_at_its_own_value(tmp_path):
    best = {"lstm": 0.1, "gru": 0.01}
    for cell, chosen in best.items():
        for lr in (0.1, 0.01):
            for seed in range(2):
                val = 0.9 if lr == chosen else 0.1
                test = {"lstm": 0.5, "gru": 0.6}[cell]
                make_run(tmp_path, test, val, cell=cell, seed=seed, **{"optimizer.lr": lr})
    comparison = table_of(tmp_path, select="optimizer.lr", baseline="lstm")
    gru = row(comparison, cell="gru")
    assert (gru["selected optimizer.lr"], gru["pairs"]) == ("0.01", 2)
    assert gru["difference"] == pytest.approx(0.1)
    assert "optimizer.lr differ" in " ".join(comparison.tables[0].notes)


def test_select_of_a_loss_takes_the_least():
    runs = [trial("lstm", lr, 0, lr, 0.0) | {"mode": "min"} for lr in (0.1, 0.2)]
    assert select_runs(pandas.DataFrame(runs), ["cell"], "optimizer.lr").values == {
        ("lstm",): "0.1"
    }


def test_unequal_trials_raise_with_the_counts(tmp_path):
    sweep(tmp_path, {"lstm": [0.1, 0.2], "gru": [0.1, 0.2]})
    make_run(tmp_path, 0.3, cell="gru", **{"optimizer.lr": 0.1})
    message = r"gru: 2 values, 3 runs \(1 \+ 2\); lstm: 1 values, 2 runs"
    with pytest.raises(CompareError, match=message):
        table_of(tmp_path, select="optimizer.lr")


scores = st.lists(quarters, min_size=12, max_size=12)


@quick
@given(scores, scores, scores, st.sets(st.integers(0, 11), max_size=4))
def test_test_values_cannot_move_a_selection(validation, tests, other_tests, broken):
    def selected(test_values):
        trials = [
            trial(
                "lstm" if i < 6 else "gru",
                (0.1, 0.01, 0.001)[i % 3],
                i % 6 // 3,
                validation[i],
                test_values[i],
                "diverged" if i in broken else "done",
            )
            for i in range(12)
        ]
        frame = pandas.DataFrame(trials)
        if "val/accuracy" not in frame:
            return None
        return select_runs(frame, ["cell"], "optimizer.lr")

    one, other = selected(tests), selected(other_tests)
    assert one.values == other.values
    assert one.runs["directory"].tolist() == other.runs["directory"].tolist()


# Files and the command


def test_the_command_writes_the_report_and_prints_its_paths(tmp_path, capsys):
    sweep(tmp_path, {"lstm": [0.9, 0.91, 0.95], "gru": [0.8, 0.81, 0.83], "[b]": [0.5]})
    out = tmp_path / "elsewhere"
    arguments = [str(tmp_path), "--by", "cell,init", "--baseline", "lstm", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    names = ["runs.csv", "table.csv", "dots.png", "dots.svg", "curves.png", "curves.svg"]
    for name in names:
        assert str(out / name) in printed
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    for text in ("higher is better", "baseline", "[b]", "-0.1067", "95% bootstrap", "0.92"):
        assert text in printed
    assert len(pandas.read_csv(out / "runs.csv")) == 7
    assert len(pandas.read_csv(out / "table.csv")) == 3
    for name in ("dots.png", "curves.png"):
        image = imread(out / name)
        assert image.shape[1] > 1000
        colours = numpy.unique((image[..., :3] * 255).astype(int).reshape(-1, 3), axis=0)
        assert len(colours) > 50
    svg = (out / "curves.svg").read_text()
    assert svg.rstrip().endswith("</svg>")
    assert "gru, torch (n = 3)" in svg


def test_a_second_call_writes_the_same_bytes_into_compare(tmp_path):
    sweep(tmp_path, {"lstm": [0.9, 0.91, 0.95], "gru": [0.8, 0.85]})
    first = {path: path.read_bytes() for path in compare(tmp_path).paths}
    assert {path.parent for path in first} == {tmp_path / "compare"}
    assert first == {path: path.read_bytes() for path in compare(tmp_path).paths}


def test_comparing_leaves_pyplot_alone(tmp_path):
    import matplotlib
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    compare(sweep(tmp_path, {"lstm": [0.9]}))
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write(target: Path) -> None:
        target.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_whole(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_versions_of_an_edited_cell_are_told_apart(tmp_path):
    for seed in (0, 1):
        for code in ("aaaaaaaa", "bbbbbbbb"):
            changes = {"plugins.cell": {"sha256": code, "file": "mine.py"}}
            make_run(tmp_path / code, cell="mine", seed=seed, **changes)
        make_run(tmp_path / "ours", cell="lstm", seed=seed)
    cells = read_runs(tmp_path)["cell"].value_counts().to_dict()
    assert cells == {"mine@aaaaaa": 2, "mine@bbbbbb": 2, "lstm": 2}


@pytest.mark.parametrize("status", ["running", "interrupted", "pruned"])
def test_an_unfinished_run_is_not_evidence_about_its_cell(tmp_path, status):
    make_run(tmp_path, cell="lstm", seed=0)
    make_run(tmp_path, cell="lstm", seed=1, status=status)
    output = io.StringIO()
    (table,) = compare(tmp_path, draw=False, console=Console(file=output, width=100)).tables
    assert table.rows[["n", "diverged", "failed"]].iloc[0].tolist() == [1, 0, 0]
    assert "1 run; 1 unfinished left out" in output.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_numbers_are_never_cut(tmp_path, width):
    for cell in ("layernorm_lstm", "peephole_lstm"):
        for seed in (0, 1, 2):
            make_run(tmp_path, test=0.9 + seed / 100, cell=cell, seed=seed)
    output = io.StringIO()
    compare(
        tmp_path, baseline="peephole_lstm", draw=False, console=Console(file=output, width=width)
    )
    text = output.getvalue()
    assert "layernorm_lstm" in text
    assert "0.9100" in text
    assert "…" not in text.replace(" … ", "")


def test_a_key_that_was_not_swept_cannot_be_selected(tmp_path):
    make_run(tmp_path, seed=0)
    make_run(tmp_path, seed=1)
    with pytest.raises(CompareError, match="runs of one value only"):
        compare(tmp_path, select="optimizer.lr", draw=False)
    with pytest.raises(CompareError, match=r"did you mean 'optimizer\.lr'"):
        compare(tmp_path, select="lr", draw=False)


def test_runs_on_a_cpu_and_a_gpu_are_pairs(tmp_path):
    for cell, device in (("lstm", "cpu"), ("gru", "gpu")):
        for seed in range(3):
            make_run(tmp_path, 0.5 + 0.1 * seed, seed=seed, cell=cell, **{
                "trainer.accelerator": device, "trainer.devices": 1,
            })  # fmt: skip
    assert row(table_of(tmp_path, baseline="lstm"), cell="gru")["pairs"] == 3


def test_runs_of_another_world_size_are_no_pairs(tmp_path):
    for cell, ranks in (("lstm", 1), ("gru", 1), ("gru", 2)):
        for seed in range(2):
            make_run(tmp_path, 0.5 + 0.1 * seed, seed=seed, cell=cell,
                     result={"world_size": ranks}, **{"trainer.devices": ranks})  # fmt: skip
    compared = row(table_of(tmp_path, baseline="lstm"), cell="gru")
    assert (compared["n"], compared["pairs"]) == (4, 2)
