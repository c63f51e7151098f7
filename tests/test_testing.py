"""The conformance suite: cells that are broken on purpose fail, and messages give the cause."""

import re
import subprocess
import sys

import pytest
import torch
from commands import LEAKY, as_a_user, assert_refused
from references import REFERENCES
from torch import sigmoid, tanh

from cellzoo import Extra, Gate, GatedCell
from cellzoo.cli import main
from cellzoo.engines import loop, native
from cellzoo.engines.compiled import programs
from cellzoo.nn import inits
from cellzoo.testing import (
    CHECKS,
    ConformanceError,
    NotChecked,
    Subject,
    check_cell,
    run_check,
    run_checks,
)
from cellzoo.zoo.lstm import LSTM
from cellzoo.zoo.lstm_variants import PeepholeLSTM

NAMES = {check.__name__: check for check in CHECKS}


def failure(check: str, cell, **known) -> str:
    """Return the message of a check for a broken cell."""
    with pytest.raises(ConformanceError) as error:
        run_check(NAMES[check], Subject(cell, **known))
    return str(error.value)


def against(name: str, cell) -> str:
    """Return the message of the comparison with a reference for a broken cell."""
    return failure("equals_its_reference", cell, reference=REFERENCES[name].step)


# -- errors that only a reference detects ------------------------------------------------------


class WrongSign(LSTM):
    def update(self, a, s):
        c = (1 - sigmoid(a.f)) * s.c + sigmoid(a.i) * tanh(a.g)
        return sigmoid(a.o) * tanh(c), c


def test_a_wrong_sign():
    message = against("lstm", WrongSign)
    assert "differs first in step 0, sequence 0, unit 0" in message
    assert "does with gate f's pre-activation negated" in message


class SwappedGates(LSTM):
    def update(self, a, s):
        c = sigmoid(a.i) * s.c + sigmoid(a.f) * tanh(a.g)
        return sigmoid(a.o) * tanh(c), c


def test_swapped_gates():
    assert "does with the gates i and f swapped" in against("lstm", SwappedGates)


class OldMemory(LSTM):
    def update(self, a, s):
        c = sigmoid(a.f) * s.c + sigmoid(a.i) * tanh(a.g)
        return sigmoid(a.o) * tanh(s.c), c


def test_the_old_c_for_the_new_one():
    message = against("lstm", OldMemory)
    assert "output differs" in message
    assert "output depends on weight_hh of gate i" in message
    assert "old value where the new one belongs" in message


class OldPeephole(PeepholeLSTM):
    def update(self, a, s):
        i = sigmoid(a.i + self.peephole_i * s.c)
        f = sigmoid(a.f + self.peephole_f * s.c)
        c = f * s.c + i * tanh(a.g)
        return sigmoid(a.o + self.peephole_o * s.c) * tanh(c), c


def test_a_peephole_that_sees_the_old_c():
    message = against("peephole_lstm", OldPeephole)
    assert "They agree without peephole_o: look at how it enters" in message


class WrongPeephole(PeepholeLSTM):
    def update(self, a, s):
        i = sigmoid(a.i - self.peephole_i * s.c)
        f = sigmoid(a.f + self.peephole_f * s.c)
        c = f * s.c + i * tanh(a.g)
        return sigmoid(a.o + self.peephole_o * c) * tanh(c), c


def test_an_extra_parameter_of_the_wrong_sign():
    assert "with peephole_i negated" in against("peephole_lstm", WrongPeephole)


def test_another_order_of_reset_and_product():
    assert "They agree without weight_hh and bias_hh of gate n" in against("gru_v1", "gru")


class Different(LSTM):
    def update(self, a, s):
        c = sigmoid(a.f) * s.c + sigmoid(a.i) * tanh(a.g)
        return sigmoid(a.o) * torch.sin(c), c


def test_a_difference_without_a_simple_mistake_is_located():
    message = against("lstm", Different)
    assert message.endswith("by the reference (input_size 4, hidden_size 4)")


def test_a_reference_of_other_states_is_refused():
    def stateless(x, state, W, U, b, extra):
        return state[0], state[:1]

    message = failure("equals_its_reference", "lstm", reference=stateless)
    assert message == "the reference returns 1 states, the cell has 2"
    assert "references/gru.py:" in against("gru", "lstm")  # of the exception


# -- errors that are detected without a reference ----------------------------------------------


class Summing(LSTM):
    def update(self, a, s):
        c = sigmoid(a.f) * s.c + sigmoid(a.i) * tanh(a.g) + s.c.mean(0)
        return sigmoid(a.o) * tanh(c), c


def test_a_leak_across_the_batch():
    message = failure("batch_independence", Summing)
    assert "output differs first in step 1, sequence 0" in message
    assert "Only another sequence of the batch was changed" in message
    assert failure("packed", Summing)


class LooksAhead(LSTM):
    def project(self, x):
        return self.project_gates(x + 0.1 * x.roll(-1, 0))


def test_looking_ahead():
    message = failure("causality", LooksAhead)
    assert "output differs first in step 0" in message
    assert "Only x from step 1 on was changed: the cell looks ahead" in message


class EarlierInput(LSTM):
    def project(self, x):
        return self.project_gates(x + torch.cat([torch.zeros_like(x[:1]), x[:-1]]))


def test_a_state_that_is_not_carried():
    message = failure("chunks", EarlierInput)
    assert "output differs first in step 3" in message
    assert "make it a state" in message
    assert "by `cell.step`, one step at a time" in failure("steps", EarlierInput)


class Remembering(LSTM):
    """RNN binds a cell for each call; only shared objects survive."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.seen = []

    def project(self, x):
        self.seen.append(1)
        return self.project_gates(x) / len(self.seen)


def test_state_hidden_in_python():
    message = failure("determinism", Remembering)
    assert "The same call was repeated" in message
    assert "an attribute of the cell that a call changes" in message


class Noisy(LSTM):
    def project(self, x):
        return self.project_gates(x + 0.1 * torch.randn_like(x))


def test_noise_outside_training():
    assert "random numbers outside training" in failure("determinism", Noisy)


class NoisyUpdate(LSTM):
    def update(self, a, s):
        h, c = super().update(a, s)
        return h + torch.randn_like(h), c


def test_an_impure_update_does_not_build_and_nothing_else_is_checked():
    assert "draws random numbers" in failure("builds", NoisyUpdate)
    first, *others = run_checks(Subject(NoisyUpdate))
    assert first.outcome == "failed"
    assert {(result.outcome, result.message) for result in others} == {
        ("not checked", "the cell cannot be built")
    }


class Unused(LSTM):
    extra = {"gain": Extra("hidden_size")}


def test_an_unused_parameter():
    assert "parameter gain is never used" in failure("parameters_used", Unused)


class UnusedRows(LSTM):
    def update(self, a, s):
        c = sigmoid(a.f) * s.c + sigmoid(a.i.detach()) * tanh(a.g)
        return sigmoid(a.o) * tanh(c), c


def test_an_unused_gate():
    assert "gate i's rows of weight_ih are never used" in failure("parameters_used", UnusedRows)
    assert "the gradient of x is not the finite difference" in failure("gradients", UnusedRows)


class Blind(GatedCell):
    gates = {"n": Gate(x="none")}

    def update(self, a, s):
        return tanh(a.n)


class Forgetful(GatedCell):
    gates = {"n": Gate(state="none")}

    def update(self, a, s):
        return tanh(a.n)


def test_no_use_for_x_and_no_memory():
    assert "does not depend on x" in failure("uses_its_input", Blind)
    assert "the cell has no memory" in failure("uses_its_input", Forgetful)


class KeepsByTheOtherSign(LSTM):
    keep = {"f": -1}


class WritesByTheOtherSign(LSTM):
    write = {"i": -1}


def test_the_wrong_sign_of_keep_and_write():
    message = failure("keep_and_write", KeepsByTheOtherSign)
    assert "keep = {'f': -1}" in message
    assert "depend less on the states of twelve steps before, but from bias −6 to +6" in message
    assert "write = {'i': -1}" in failure("keep_and_write", WritesByTheOtherSign)


class Timeless(LSTM):
    elapsed_time = True
    native = None


def test_elapsed_time_without_use():
    assert "does not read a.x.dt" in failure("elapsed_time", Timeless)


class Imprecise(LSTM):
    def update(self, a, s):
        h, c = super().update(a, s)
        return (h + 1e6) - 1e6, c


class InDoublePrecision(LSTM):
    def project(self, x):
        return self.project_gates(x).double()


def test_lost_precision_and_another_dtype():
    assert "output in torch.float32 has a relative error of 0." in failure("dtypes", Imprecise)
    assert "torch.float64" in failure("builds", InDoublePrecision)


class OfTheBatch(LSTM):
    def project(self, x):
        return self.project_gates(x if x.dim() == 3 else 2 * x)


def test_a_projection_that_counts_on_a_batch():
    assert "packed x is (rows, I)" in failure("packed", OfTheBatch)
    assert "`project` takes a dimension for time" in failure("steps", OfTheBatch)


class Squeezing(LSTM):
    def project(self, x):
        return self.project_gates(x).squeeze(0)


def test_a_squeeze():
    assert "output is (3, 3, 4) instead of (1, 3, 4)" in failure("shapes", Squeezing)


class ByPlace(LSTM):
    def project(self, x):
        place = torch.arange(len(x), dtype=x.dtype).view(-1, *[1] * (x.dim() - 1))
        return self.project_gates(x * place)


def test_a_projection_that_counts_steps():
    assert "make it a state" in failure("chunks", ByPlace)


class UnlikeBackwards(LSTM):
    def project(self, x):
        return self.project_gates(x * x.flatten(1).sum(1).argmax())


def test_a_direction_that_sees_something_else():
    assert failure("backwards", UnlikeBackwards)


class Exploding(GatedCell):
    gates = ("n",)

    def update(self, a, s):
        return torch.exp(a.n)


class Declared(Exploding):
    bounded = False


def test_states_that_grow():
    message = failure("long_sequences", Exploding)
    assert "is not finite from step 0 on" in message or "is not finite from step 1 on" in message
    with pytest.raises(NotChecked, match="not bounded"):
        run_check(NAMES["long_sequences"], Subject(Declared))


class NoStart(GatedCell):
    gates = ("n",)
    extra = {"tau": Extra("hidden_size")}

    def update(self, a, s):
        return tanh(a.n) / self.tau


def test_an_init_without_a_finite_output():
    message = failure("presets", NoStart)
    assert "the output is not finite" in message
    assert "Extra(init=…)" in message


class UnlikeThePaper(GatedCell):
    gates = ("n",)
    paper_init = {"name": "torch", "blocks": {"weight_hh": "identity"}}

    def update(self, a, s):
        return tanh(a.n)


def test_the_papers_init(monkeypatch):
    subject = Subject(UnlikeThePaper)
    run_check(NAMES["presets"], subject)
    monkeypatch.setitem(
        inits.inits._things,
        "identity",
        inits.Scheme(lambda block, _: block.fill_(1), "glorot", "zeros"),
    )
    with pytest.raises(
        ConformanceError, match="weight_hh does not hold the values of the scheme 'identity'"
    ):
        run_check(NAMES["presets"], subject)


class DrawnWhenBuilt(LSTM):
    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.scale = float(torch.rand(()))

    def update(self, a, s):
        h, c = super().update(a, s)
        return self.scale * h, c


def test_a_value_outside_the_state_dict():
    assert "neither parameter nor buffer" in failure("state_dict", DrawnWhenBuilt)


def test_the_number_of_parameters():
    message = failure("parameter_count", "lstm", parameters=lambda i, h: 4 * h * (i + h + 1))
    assert "16 parameters instead of 12 with input_size 1, hidden_size 1" in message
    assert "bias_hh 4" in message


def test_an_engine_that_computes_something_else(monkeypatch):
    def wrong(layer, states):
        output, final = loop.run(layer, states)
        return -output, final

    monkeypatch.setattr(native, "run", wrong)
    assert "It was run by engine 'native', dense, and by the loop" in failure("engines", "lstm")


# -- running the suite -------------------------------------------------------------------------


def test_all_at_once():
    results = check_cell("gru_v1", reference=REFERENCES["gru_v1"].step)
    assert [result.check for result in results] == list(NAMES)
    unchecked = {result.check for result in results if result.outcome == "not checked"}
    assert unchecked == {"parameter_count", "elapsed_time"}
    with pytest.raises(ConformanceError) as error:
        check_cell(LooksAhead)
    first, *lines = str(error.value).splitlines()
    assert first == f"LooksAhead fails {len(lines)} checks:"
    assert lines[0].startswith("causality: output differs")


THEIRS = """
from cellzoo import GatedCell, option
from cellzoo.testing import conformance_tests
from torch import relu, tanh


class Theirs(GatedCell):
    gates = ("n",)
    looks_ahead = option(False)

    def project(self, x):
        return self.project_gates(x.roll(-1, 0) if self.looks_ahead else x)

    def update(self, a, s):
        return tanh(a.n)


test_conformance = conformance_tests(Theirs)
"""


def test_pytest_of_a_third_party(tmp_path):
    (tmp_path / "test_theirs.py").write_text(THEIRS)
    command = [sys.executable, "-m", "pytest", "-rfs", "-p", "no:cacheprovider", "--strict-markers"]
    done = subprocess.run([*command, tmp_path], cwd=tmp_path, capture_output=True, text=True)
    failed = re.findall(r"FAILED test_theirs.py::test_conformance\[(\S+)\]", done.stdout)
    assert "Theirs-looks_ahead=True-causality" in failed
    assert all("looks_ahead=True" in name for name in failed)
    assert "not checked against a paper" in done.stdout
    assert f"{2 * len(CHECKS) - len(failed) - 8} passed" in done.stdout


BROKEN = """

@register_cell("ahead")
class Ahead(LeakyLSTM):
    def project(self, x):
        return self.project_gates(x.roll(-1, 0))
"""

REFERENCE = """
import numpy as np


def leaky_lstm(x, state, W, U, b, extra):
    h, c = state
    i, f, g, o = (x @ W[k].T + h @ U[k].T + b[k][0] + b[k][1] for k in "ifgo")
    i, f, o = (1 / (1 + np.exp(-a)) for a in (i, f, o))
    c = f * c + i * np.tanh(g)
    h = 0.9 * h + 0.1 * o * np.tanh(c)
    return h, (h, c)
"""


def test_as_a_user(tmp_path):
    (tmp_path / "my_cell.py").write_text(LEAKY)
    (tmp_path / "paper.py").write_text(REFERENCE)
    done = as_a_user("check", "my_cell.py", "--reference", "paper.py", cwd=tmp_path, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["passed", "equals_its_reference"] in [line[:2] for line in lines]
    assert done.stdout.splitlines()[-1] == f"{len(CHECKS) - 3} passed, 0 failed, 3 not checked"
    (tmp_path / "my_cell.py").write_text(LEAKY + BROKEN)
    done = as_a_user("check", "my_cell.py", cwd=tmp_path, COLUMNS="300")
    assert done.returncode == 1
    (line,) = [
        line for line in done.stdout.splitlines() if line.startswith("failed       causality")
    ]
    assert "the cell looks ahead" in line
    assert "not checked against a paper" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "lstn"], "did you mean 'lstm'?"),
        (["check", "no*"], "no cell matches 'no*'"),
        (["check", "nothing.py"], "plugin nothing.py does not exist"),
        (["check", "paper.py"], "paper.py registers no cell"),
        (["check", "lstm", "--reference", "nothing.py"], "there is no such Python file"),
        (["check", "lstm", "--reference", "paper.py"], "has no function called lstm"),
    ],
)
def test_wrong_usage(arguments, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper.py").write_text(REFERENCE)
    assert_refused(arguments, message, capfd)


def test_by_name_and_pattern(capsys):
    assert main(["check", "elman"]) == 0
    output = capsys.readouterr().out
    assert "elman nonlinearity=relu" in output
    assert main(["check", "gru_v?"]) == 0


@pytest.mark.slow
def test_compiled_for_real(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(programs, "_programs", {})
    outcomes = {r.check: r.outcome for r in check_cell("cifg_lstm", compile=True)}
    assert outcomes["compiles"] == "passed"
    assert list((tmp_path / "cellzoo").rglob("*.so"))
