"""The benchmark: measurements, counts and reports. No test asserts a time."""

import csv
import math
import os
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy
import pandas
import pytest
import torch
from commands import as_a_user, assert_refused, start, wait_for
from torch import nn

from cellzoo import RNN
from cellzoo.bench import command, contenders, peers, results, run
from cellzoo.bench.contenders import Candidate, Contender, multiply_adds
from cellzoo.bench.measure import LEAST, calibrate, interleaved
from cellzoo.bench.memory import peak_bytes
from cellzoo.bench.plot import plot
from cellzoo.bench.shape import Shape
from cellzoo.bench.table import tables
from cellzoo.cli import main
from cellzoo.engines import CompileError

CPU = torch.device("cpu")
PLUGIN = """
import torch
from cellzoo import GatedCell, register_cell

@register_cell("mine")
class Mine(GatedCell):
    gates = ("n",)

    def update(self, a, s):
        return torch.tanh(a.n)

@register_cell("sorting")
class Sorting(GatedCell):
    gates = ("n",)

    def update(self, a, s):
        return torch.sort(a.n, -1).values
"""
TINY = ["--shape", "5,2,3,4", "--repeats", "2", "--no-peers"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _at_once(monkeypatch):
    """Make one call a measurement, and the large product small."""
    monkeypatch.setattr("cellzoo.bench.measure.LEAST", 0.0)
    monkeypatch.setattr(run, "SIDE", {"cpu": 8})


def rows_of(folder):
    with (folder / "bench.csv").open() as file:
        return list(csv.DictReader(file))


# -- measuring ---------------------------------------------------------------------------------


class Clock:
    """A clock that advances with each call by the cost of the call, and a record of the calls."""

    def __init__(self, **costs):
        self.now, self.costs, self.called = 0.0, costs, []
        self.slower = 1.0

    def __call__(self):
        return self.now

    def of(self, name):
        def call():
            self.called.append(name)
            self.now += self.costs[name] * self.slower

        return call

    def calls(self):
        return {name: lambda name=name: self.of(name) for name in self.costs}


def test_a_measurement_lasts_long_enough_for_the_clock():
    clock = Clock(fast=1e-5, slow=1.0)
    number = calibrate(clock.of("fast"), clock, lambda: None)
    assert LEAST <= number * 1e-5 < 2 * LEAST
    assert calibrate(clock.of("slow"), clock, lambda: None) == 1


def test_each_is_measured_once_a_round_in_an_order_that_the_seed_fixes():
    def rounds(seed):
        clock, begun = Clock(a=1.0, b=1.0, c=1.0, d=1.0), []
        interleaved(
            clock.calls(), 6, seed, clock, on_round=lambda _: begun.append(len(clock.called))
        )
        return [clock.called[i : i + 4] for i in begun]

    orders = rounds(seed=0)
    assert len(orders) == 6
    assert all(sorted(order) == ["a", "b", "c", "d"] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert orders == rounds(seed=0)
    assert orders != rounds(seed=1)


def test_times_are_of_one_call_and_a_slower_machine_is_slower_for_all():
    clock = Clock(a=0.001, b=0.004)

    def slow_down(number):
        clock.slower = 1 + number

    times = interleaved(clock.calls(), 4, 0, clock, on_round=slow_down)
    assert times["a"] == pytest.approx([0.001, 0.002, 0.003, 0.004])
    assert times["b"] == pytest.approx([0.004, 0.008, 0.012, 0.016])


def contender(module, name="x", cell="x", engine="loop"):
    candidate = Candidate(name, cell, engine, lambda x, hidden_size: (module, None))
    return Contender(candidate, module, lambda: None)


def test_the_columns_of_a_row_by_hand():
    lstm, half = contender(nn.LSTM(3, 4), peers.BASELINE), contender(nn.Linear(8, 7, bias=False))
    row = results.row(
        half,
        Shape(steps=10, batch=2, input_size=3, hidden_size=4),
        first=1.5,
        peak=4096,
        forward=[0.001, 0.003, 0.002],
        step=[0.010, 0.020, 0.040],
        matrix_rate=1e6,
        baseline=(lstm, [0.005, 0.010, 0.020]),  # the machine drifts: times double in each round
    )
    assert (row["forward_ms"], row["step_ms"]) == (2.0, 20.0)
    assert (row["step_ms_low"], row["step_ms_high"]) == (15.0, 30.0)
    assert row["tokens_per_second"] == 20 / 0.020
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == (2.0, 2.0, 2.0)
    assert row["multiply_adds"] == 56
    assert row["ratio_per_multiply_add"] == 2.0 * (16 * 3 + 16 * 4) / 56
    assert row["matrix_share"] == pytest.approx(6 * 10 * 2 * 56 / 0.020 / 1e6)
    assert (row["peak_bytes"], row["first_seconds"], row["rounds"]) == (4096, 1.5, 3)


def test_geometric_means_count_their_shapes():
    def row(name, ratio):
        identity = {"contender": name, "cell": name, "engine": "loop", "status": "measured"}
        return identity | {"ratio": ratio, "ratio_per_multiply_add": 2 * ratio}

    rows = pandas.DataFrame([row("a", 2.0), row("a", 8.0), row("b", 3.0)])
    means = results.overall(rows).set_index("contender")
    assert means.loc["a", "ratio"] == pytest.approx(4.0)
    assert means.loc["a", "ratio_per_multiply_add"] == pytest.approx(8.0)
    assert means["shapes"].to_dict() == {"a": 2, "b": 1}
    assert list(means.index) == ["b", "a"]


@pytest.mark.parametrize(
    ("cell", "by_hand"),
    [
        ("lstm", 4 * 5 * 3 + 4 * 5 * 5),
        ("peephole_lstm", 4 * 5 * 3 + 4 * 5 * 5),  # peepholes are not matrices
        ("gru_v1", 3 * 5 * 3 + 3 * 5 * 5),
        ("elman", 5 * 3 + 5 * 5),
    ],
)
def test_multiply_adds(cell, by_hand):
    assert multiply_adds(RNN(cell, 3, 5)) == by_hand


def test_multiply_adds_of_a_projection_and_of_a_bias_in_two_rows():
    assert multiply_adds(RNN("lstm", 3, 5, proj_size=2)) == 20 * 3 + 20 * 2 + 2 * 5
    like_keras = nn.ParameterDict({"kernel": torch.zeros(3, 15), "bias": torch.zeros(2, 15)})
    assert multiply_adds(like_keras) == 45


# -- memory ------------------------------------------------------------------------------------


def test_peak_memory_of_a_known_case():
    older = [torch.zeros(1000)]

    def call():
        kept = [torch.empty(100 * k, dtype=torch.uint8) for k in (1, 2, 3)]  # 600 held at once
        del kept[1]  # 400
        older.clear()  # earlier memory does not count
        kept.append(torch.empty(150, dtype=torch.uint8))  # 550
        kept.clear()
        torch.empty(590, dtype=torch.uint8)

    assert peak_bytes(call, CPU) == 600
    assert peak_bytes(call, CPU) == 600  # independent of the first call


def test_peak_memory_includes_temporaries_and_saved_tensors():
    x = torch.ones(250, requires_grad=True)  # 1,000 bytes

    def call():
        x.grad = None
        x.exp().exp().backward(torch.ones_like(x))

    # exp, exp and the gradient; backward then holds two products more before it frees any.
    assert 3000 <= peak_bytes(call, CPU) <= 5000
    assert peak_bytes(lambda: torch.logsumexp(x.detach(), 0), CPU) >= 1000


def test_the_profiler_is_quiet_and_stderr_comes_back(capfd):
    peak_bytes(lambda: torch.zeros(3), CPU)
    print("here again", file=sys.stderr)
    assert capfd.readouterr().err == "here again\n"


# -- contenders --------------------------------------------------------------------------------


def test_a_training_step_starts_anew_and_forward_takes_no_gradient():
    candidate = contenders.registered("lstm", "loop")
    x = torch.randn(4, 2, 3)
    lstm = Contender(candidate, *candidate.build(x, 5))
    lstm.call("step")()
    first = [p.grad.clone() for p in lstm.module.parameters()]
    lstm.call("step")()
    for gradient, parameter in zip(first, lstm.module.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert lstm.module.training
    seen = []
    lstm.module.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    lstm.call("forward")()
    assert not seen[0].requires_grad
    assert not lstm.module.training


@pytest.mark.parametrize("package", ["torchrecurrent", "keras"])
def test_layers_of_other_packages(package):
    pytest.importorskip(package)
    layers, absent = peers.others(["lstm", "gru", "elman", "peephole_lstm"])
    assert package not in [entry.engine for entry in absent]
    layers = [layer for layer in layers if layer.engine == package]
    assert layers
    for layer in layers:
        peer = Contender(layer, *layer.build(torch.randn(6, 2, 3), 5))
        assert sorted(peer.run().shape) == [2, 5, 6]
        peer.call("step")()
        peer.call("forward")()
        gates = {"lstm": 4, "peephole_lstm": 4, "gru": 3, "elman": 1}[layer.cell]
        assert peer.multiply_adds == gates * 5 * (3 + 5)


def test_a_package_without_these_cells_declines(monkeypatch):
    monkeypatch.setattr(peers, "_installed", lambda package: True)
    monkeypatch.setitem(peers.PACKAGES, "keras", lambda: iter(()))
    monkeypatch.setitem(peers.PACKAGES, "torchrecurrent", lambda: 1 / 0)
    layers, absent = peers.others(["lstm"])
    assert not layers
    reasons = {entry.engine: (entry.status, entry.reason) for entry in absent}
    assert reasons["keras"] == ("declined", "has none of these cells")
    assert reasons["torchrecurrent"] == ("failed", "ZeroDivisionError: division by zero")


def test_packages_that_are_not_installed_are_listed_once(monkeypatch):
    monkeypatch.setattr(peers, "_installed", lambda package: False)
    layers, absent = peers.others(["lstm"])
    assert not layers
    assert {entry.engine: entry.status for entry in absent} == {
        "torchrecurrent": "not installed",
        "keras": "not installed",
    }


# -- the run -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("_at_once")
def test_absent_contenders_are_listed_and_the_others_are_measured(monkeypatch, capsys, tmp_path):
    honest = contenders._rnn

    def build(cell, engine, x, hidden_size):
        if cell == "gru" and x.shape[0] == 6:
            raise RuntimeError("it broke\nat length")
        if cell == "elman" and engine == "compiled":
            raise CompileError("no compiler")
        return honest(cell, engine, x, hidden_size)

    monkeypatch.setattr(contenders, "_rnn", build)
    shapes = ["--shape", "5,2,3,4", "--shape", "6,2,3,4"]
    arguments = ["gru", "gru_v1", "elman", "--engine", "loop,native", *shapes, "--repeats", "2"]
    assert main(["bench", *arguments, "--no-peers", "--out", "out"]) == 1
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 2 * (3 * 2 + 3)  # every cell by every engine, and torch.nn's three
    absent = {
        (r["contender"], r["engine"], r["steps"]): r for r in rows if r["status"] != "measured"
    }
    assert absent.keys() == {
        ("gru", "loop", "6"),
        ("gru", "native", "6"),
        ("gru_v1", "native", "5"),
        ("gru_v1", "native", "6"),
    }
    assert absent["gru", "loop", "6"]["status"] == "failed"
    assert absent["gru", "loop", "6"]["reason"] == "RuntimeError: it broke"
    assert absent["gru_v1", "native", "5"]["status"] == "declined"
    output = capsys.readouterr().out
    assert "torch.nn has no kernel for it" in output
    assert "RuntimeError: it broke (at T 6 · B 2 · I 3 · H 4)" in output
    assert "1 of 2" in output  # gru's mean is over one shape


@pytest.mark.usefixtures("_at_once")
def test_a_run_has_the_requested_dtype_and_threads(tmp_path):
    assert (
        main(["bench", "lstm", "--engine", "loop", *TINY, "--dtype", "float64", "--out", "o"]) == 0
    )
    (lstm, *others) = rows_of(tmp_path / "o")
    assert lstm["dtype"] == "float64"
    assert lstm["threads"] == "1"
    assert [row["contender"] for row in others] == ["torch.nn.LSTM", "torch.nn.GRU", "torch.nn.RNN"]
    assert lstm["torch"] == torch.__version__
    assert float(others[0]["ratio"]) == 1.0
    numbers = ["forward_ms", "step_ms", "tokens_per_second", "peak_bytes", "first_seconds", "ratio",
               "ratio_per_multiply_add", "matrix_share", "matrix_gflops"]  # fmt: skip
    for name in numbers:
        assert math.isfinite(float(lstm[name])), name
        assert float(lstm[name]) > 0, name
    flops = 6 * 5 * 2 * int(lstm["multiply_adds"])
    share = flops / (float(lstm["step_ms"]) / 1e3) / (float(lstm["matrix_gflops"]) * 1e9)
    assert float(lstm["matrix_share"]) == pytest.approx(share)


def measured(cells=("lstm", "gru"), engines=("loop", "native"), shapes=2):
    """A table of made-up measurements."""
    generator = numpy.random.default_rng(0)
    lstm = contender(nn.LSTM(3, 4), peers.BASELINE, "lstm", peers.TORCH_NN)
    rows = []
    for number in range(shapes):
        shape = Shape(10 * (number + 1), 2, 3, 4)
        others = [contender(RNN(c, 3, 4), c, c, engine) for c in cells for engine in engines]
        for measured_layer in [*others, lstm]:
            times = {kind: generator.uniform(1, 2, 3) for kind in ("forward", "step")}
            base = (lstm, generator.uniform(1, 2, 3))
            rows.append(
                results.row(
                    measured_layer,
                    shape,
                    first=1.0,
                    peak=1,
                    matrix_rate=1e9,
                    baseline=base,
                    **times,
                )
            )
    return pandas.DataFrame(rows).assign(version=None)


def test_tables_have_every_contender_of_every_shape():
    report = list(tables(measured()))
    assert [table.title.split(" (")[0] for table in report] == [
        "T 10 · B 2 · I 3 · H 4",
        "T 20 · B 2 · I 3 · H 4",
        "Geometric means over the shapes",
    ]
    for table in report:
        assert len(table.rows) == 5
        assert {len(cells) for cells in table.rows} == {len(table.header)}
    times = [float(cells[3].replace(",", "")) for cells in report[0].rows]
    assert times == sorted(times)


def test_the_plot_has_a_panel_for_each_shape_and_a_line_for_each_contender():
    figure = plot(measured(shapes=4))
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [
        f"T {10 * n} · B 2 · I 3 · H 4" for n in (1, 2, 3, 4)
    ]
    assert sorted(text.get_text() for text in panels[0].get_yticklabels()) == ["gru", "lstm"]
    for axes in panels:
        markers = [line for line in axes.lines if len(line.get_xdata()) == 1]
        assert len({line.get_ydata()[0] for line in markers}) == len(markers) == 5
    assert plot(measured().assign(ratio=numpy.nan)) is None


# -- the command -------------------------------------------------------------------------------

WRONG_INPUT = {
    "lstmm": "unknown cell 'lstmm': did you mean 'lstm'?",
    "zz*": "unknown cell 'zz*'",
    "--engine lop": "unknown engine 'lop': did you mean 'loop'?",
    "--shape 5,2,3": "--shape takes T,B,I,H, four positive numbers such as 100,32,64,64, not '5",
    "--shape 5,2,3,0": "not '5,2,3,0'",
    "--shape 5,2,x,4": "not '5,2,x,4'",
    "--dtype float": "unknown dtype 'float': did you mean 'float",
    "--device gpu": "unknown device 'gpu'",
    "--repeats 0": "--repeats must be 1 or more, not 0",
    "--threads 0": "--threads must be 1 or more, not 0",
    "--out file": "is not a writable folder",
}


@pytest.mark.parametrize("line", WRONG_INPUT)
def test_wrong_input_is_one_line_and_writes_nothing(line, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert_refused(["bench", *line.split()], WRONG_INPUT[line], capfd)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused(capfd):
    assert main(["bench", "--device", "cuda"]) == 2
    assert "torch sees no CUDA device" in capfd.readouterr().err


def test_cells_by_pattern_are_each_taken_once():
    assert command._cells(["gru_v*", "lstm", "gru_v1"]) == ["gru_v1", "lstm"]
    assert set(command._cells([])) >= {"lstm", "gru", "elman"}


def test_warm_compiles_each_and_fails_only_for_named_cells(monkeypatch, capsys):
    compiled = []

    def compile_one(cell):
        if cell == "gru":
            raise CompileError("no C++ compiler was found")
        compiled.append(cell)
        return 1.5

    monkeypatch.setattr("cellzoo.bench.warm._compile", compile_one)
    monkeypatch.setattr("cellzoo.bench.warm._pool", lambda processes: ThreadPoolExecutor(1))
    assert main(["bench", "--warm", "[g]ru", "gru_v1", "lstm"]) == 0
    assert compiled == ["gru_v1", "lstm"]
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == [
        "gru: not compiled: no C++ compiler was found",
        "gru_v1: 1.5 s",
        "lstm: 1.5 s",
    ]
    assert main(["bench", "--warm", "gru"]) == 1


@pytest.mark.slow
def test_warm_fills_the_cache(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "2"}
    (tmp_path / "mine.py").write_text(PLUGIN)
    cells = ["elman", "mine", "sorting"]
    done = as_a_user("bench", "--plugin", "mine.py", "--warm", *cells, cwd=tmp_path, **environment)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines.keys() == {*cells}
    assert re.fullmatch(r"not compiled: .*a step of it calls .*sort.*", lines.pop("sorting"))
    assert all(re.fullmatch(r"\d+\.\d s", seconds) for seconds in lines.values())
    libraries = [*(tmp_path / "cache" / "cellzoo" / "compiled").glob("*.so")]
    assert len(libraries) >= 4  # of two cells, forward and backward


@pytest.mark.slow
def test_warm_ends_at_ctrl_c(tmp_path):
    process = start(
        "bench", "--warm", "elman", "lstm", "gru", cwd=tmp_path, alone=True,
        XDG_CACHE_HOME=str(tmp_path / "cache"), OMP_NUM_THREADS="2",
    )  # fmt: skip
    compiled = tmp_path / "cache" / "cellzoo" / "compiled"
    wait_for(compiled.exists)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "cellzoo: interrupted\n")


def test_as_a_user(tmp_path):
    arguments = ["lstm", "elman", "--engine", "loop,native", *TINY, "--out", "out"]
    done = as_a_user("bench", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "bench.csv",
        "bench.md",
        "bench.png",
        "bench.svg",
    ]
    rows = rows_of(out)
    assert {(row["contender"], row["engine"]) for row in rows} == {
        ("lstm", "loop"),
        ("lstm", "native"),
        ("elman", "loop"),
        ("elman", "native"),
        ("torch.nn.LSTM", "torch.nn"),
        ("torch.nn.GRU", "torch.nn"),
        ("torch.nn.RNN", "torch.nn"),
    }
    sizes = ["steps", "batch", "input_size", "hidden_size"]
    assert {tuple(row[size] for size in sizes) for row in rows} == {("5", "2", "3", "4")}
    assert {row["status"] for row in rows} == {"measured"}
    assert {row["rounds"] for row in rows} == {"2"}
    text = (out / "bench.md").read_text()
    assert "| torch.nn.LSTM | torch.nn |" in text
    assert "bench.csv" in done.stdout
