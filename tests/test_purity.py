"""Purity: what an engine cannot repeat is refused at a cell's first use, with the line."""

from __future__ import annotations

import inspect
import random

import numpy as np
import pytest
import torch
from torch import sigmoid, tanh
from torch.nn import functional

from cellzoo import RNN, Extra, Gate, GatedCell, State, build_cell, option
from cellzoo.cells import purity
from cellzoo.cells.purity import ImpureUpdateError

VECTOR = torch.ones(4)
SCALAR = torch.tensor(2.0, requires_grad=True)
SQUARE = torch.eye(4)
SCRATCH = torch.zeros(3, 4, device="meta")


class Cell(GatedCell):
    """What the impure ones have in common: two states, a matrix, an update of one line."""

    gates = ("n",)
    states = ("h", "c")
    extra = {"scale": Extra("hidden_size"), "matrix": Extra("hidden_size", "hidden_size")}


def impure(*names):
    """The class in a list, with a readable id."""

    def decorate(cls):
        IMPURE.append(pytest.param(cls, names, id=cls.__name__))
        return cls

    return decorate


IMPURE: list = []


@impure("self.memory")
class WritesAnAttribute(Cell):
    def update(self, a, s):
        self.memory = a.n  # here
        return s.h, s.c


@impure("self.scale")
class WritesAParameter(Cell):
    def update(self, a, s):
        self.scale = torch.tanh(a.n)  # here
        return s.h, s.c


@impure("self.scale")
class DeletesAnAttribute(Cell):
    def update(self, a, s):
        del self.scale  # here
        return s.h, s.c


@impure("in place", "add_")
class WritesAState(Cell):
    def update(self, a, s):
        s.h.add_(1)  # here
        return s.h, s.c


@impure("in place")
class WritesAStatesItem(Cell):
    def update(self, a, s):
        s.h[:, 0] = 0  # here
        return s.h, s.c


@impure("in place")
class WritesAStateByAnOperator(Cell):
    def update(self, a, s):
        h = s.h
        h += 1  # here
        return h, s.c


@impure("in place")
class WritesTheParameter(Cell):
    def update(self, a, s):
        self.scale.mul_(0.9)  # here
        return s.h, s.c


@impure("in place")
class WritesOut(Cell):
    def update(self, a, s):
        torch.add(s.h, s.c, out=SCRATCH)  # here
        return s.h, s.c


@impure("random")
class DrawsByTorch(Cell):
    def update(self, a, s):
        return s.h + torch.rand_like(s.h), s.c  # here


@impure("random")
class DrawsOnTheCPU(Cell):
    def update(self, a, s):
        return s.h * torch.rand(()), s.c  # here


@impure("random")
class DrawsADropout(Cell):
    def update(self, a, s):
        return functional.dropout(s.h, 0.5), s.c  # here


@impure("random")
class DrawsADropoutInTraining(Cell):
    def update(self, a, s):
        return functional.dropout(s.h, 0.5, self.training), s.c  # here


@impure("random numbers", "project")
class DrawsByPython(Cell):
    def update(self, a, s):
        return s.h * random.random(), s.c


@impure("random numbers", "project")
class DrawsByNumPy(Cell):
    def update(self, a, s):
        return s.h * float(np.random.rand()), s.c  # noqa: NPY002


@impure("values")
class Branches(Cell):
    def update(self, a, s):
        return (s.h if a.n.sum() > 0 else s.c), s.c  # here


@impure("values")
class TakesAnItem(Cell):
    def update(self, a, s):
        return s.h * a.n[0, 0].item(), s.c  # here


@impure("values")
class TakesAList(Cell):
    def update(self, a, s):
        return s.h * a.n.tolist()[0][0], s.c  # here


@impure("values")
class TakesAnArray(Cell):
    def update(self, a, s):
        return s.h * a.n.numpy()[0, 0], s.c  # here


@impure("values")
class TakesAMaskedPart(Cell):
    def update(self, a, s):
        return s.h + s.c[a.n > 0].sum(), s.c  # here


@impure("self.product")
class MultipliesByAMatrix(Cell):
    def update(self, a, s):
        return s.h @ self.matrix, s.c  # here


@impure("self.product")
class MultipliesFromTheRight(Cell):
    def update(self, a, s):
        return (self.matrix @ s.h.T).T, s.c  # here


@impure("self.product")
class CallsLinear(Cell):
    def update(self, a, s):
        return functional.linear(s.h, self.weight_hh), s.c  # here


@impure("self.product")
class CallsEinsum(Cell):
    def update(self, a, s):
        return torch.einsum("bi,oi->bo", s.h, self.matrix), s.c  # here


@impure("self.product")
class ProjectsAgain(Cell):
    def update(self, a, s):
        return self.project_gates(s.h[:, :3]), s.c  # here


@impure("no parameter")
class ClosesOverATensor(Cell):
    def update(self, a, s):
        return s.h * VECTOR, s.c  # here


@impure("no parameter")
class ClosesOverAScalar(Cell):
    def update(self, a, s):
        return s.h * SCALAR, s.c  # here


@impure("no parameter")
class KeepsAPlainTensor(Cell):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.constant = torch.ones(self.hidden_size)

    def update(self, a, s):
        return s.h * self.constant, s.c  # here


@impure("self.memory")
class InheritsTheFault(WritesAnAttribute):
    pass


class Helps(Cell):
    def helper(self, a, s):
        return s.h + a.n.sum().item()  # here

    def update(self, a, s):
        return s.h, s.c


@impure("values")
class OverridesAHelper(Helps):
    def update(self, a, s):
        return self.helper(a, s), s.c


def line_of(cls: type) -> int | None:
    """The line marked `# here` in the class, or in those that it inherits from."""
    for base in cls.__mro__[:-1]:
        lines, start = inspect.getsourcelines(base)
        for number, line in enumerate(lines, start):
            if line.rstrip().endswith("# here"):
                return number
    return None


def build(cell):
    RNN(cell, 3, 4)


def step(cell):
    build_cell(cell, 3, 4).step(torch.zeros(2, 3))


@pytest.mark.parametrize("by", [build, step])
@pytest.mark.parametrize(("cell", "names"), IMPURE)
def test_impure_updates_are_refused_with_the_line(cell, names, by):
    with pytest.raises(ImpureUpdateError) as error:
        by(cell)
    message = str(error.value)
    assert f"{cell.__name__}.update" in message
    for name in names:
        assert name in message
    line = line_of(cell)
    if line is not None:
        assert f"{__file__}:{line}" in message


@pytest.mark.parametrize("cell", [param.values[0] for param in IMPURE])
def test_what_is_refused_is_refused_again(cell):
    for _ in range(2):
        with pytest.raises(ImpureUpdateError):
            RNN(cell, 3, 4)


def test_a_branch_on_training_is_checked_in_training_and_evaluation():
    class Draws(Cell):
        draws_in: bool = option(True)

        def update(self, a, s):
            return functional.dropout(s.h, 0.5, self.training is self.draws_in), s.c

    for draws_in in (True, False):
        for training in (True, False):
            cell = build_cell(Draws, 3, 4, draws_in=draws_in).train(training)
            with pytest.raises(ImpureUpdateError, match="random"):
                cell.step(torch.zeros(2, 3))
            assert cell.training is training


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda self, a, s: s.h, r"must return the states \(h, c\)"),
        (lambda self, a, s: (s.h, s.c, s.c), r"must return the states \(h, c\)"),
        (lambda self, a, s: ((s.h,), s.c), r"must return the states \(h, c\)"),
        (lambda self, a, s: [s.h, s.c], r"must return the states \(h, c\)"),
        (lambda self, a, s: (s.h, 0.0), r"must return the states \(h, c\)"),
        (lambda self, a, s: None, r"must return the states \(h, c\)"),
        (lambda self, a, s: (s.h, s.c[:, :2]), r"state 'c' as \(3, 2\).*declared one is \(3, 4\)"),
        (lambda self, a, s: (s.h, s.c[:1]), r"state 'c' as \(1, 4\)"),
        (lambda self, a, s: (s.h, s.c.double()), "state 'c' .*float64.*declared.*float32"),
        (lambda self, a, s: ((s.h, s.c), s.c[:, :2]), r"an output of \(3, 2\).*\(3, 4\)"),
        (lambda self, a, s: ((s.h, s.c), s.c.double()), "an output of .*float64"),
    ],
)
def test_wrong_returns_are_refused(update, message):
    cell = type("Wrong", (Cell,), {"update": update})
    with pytest.raises(TypeError, match=message):
        RNN(cell, 3, 4)
    with pytest.raises(TypeError, match=message):
        build_cell(cell, 3, 4).step(torch.zeros(2, 3))


def test_a_typo_is_an_attribute_error_that_names_the_nearest():
    class Typo(Cell):
        gates = ("reset", "update_gate")

        def update(self, a, s):
            return a.rest, s.c

    with pytest.raises(AttributeError, match="did you mean 'reset'"):
        RNN(Typo, 3, 4)
    with pytest.raises(NotImplementedError, match="Cell has no update"):
        RNN(Cell, 3, 4)


class Pure(Cell):
    """Uses what it may: constants, clones, where, shapes, loops, options, its parameters."""

    states = {"h": State(), "c": State(), "t": State(1, torch.long)}
    extra = Cell.extra
    times: int = option(2)

    def update(self, a, s):
        h = torch.where(a.n > 0, s.h, self.scale * s.c) + torch.zeros_like(s.h)
        for _ in range(self.times if s.h.shape[0] else 0):
            h = self.product("matrix", torch.tanh(h)) + torch.tensor(0.5)
        return h, torch.softmax(s.c, -1), s.t + 1


def test_a_pure_cell_is_checked_once(monkeypatch):
    runs = []
    run_once = purity._run_once
    monkeypatch.setattr(purity, "_run_once", lambda *a: runs.append(a) or run_once(*a))

    class Fresh(Pure):
        pass

    for _ in range(3):
        RNN(Fresh, 3, 4)
        build_cell(Fresh, 5, 6).step(torch.zeros(2, 5))
    assert [training for _, training in runs] == [True, False]
    RNN(Fresh, 3, 4, times=3)  # another option may be another path
    assert len(runs) == 4


def test_a_subclass_of_a_checked_cell_is_checked():
    class Parent(Pure):
        pass

    RNN(Parent, 3, 4)

    class Child(Parent):
        def update(self, a, s):
            return s.h + torch.rand_like(s.h), s.c, s.t

    with pytest.raises(ImpureUpdateError, match=r"Child\.update draws random"):
        RNN(Child, 3, 4)


class Noisy(GatedCell):
    """Draws a mask and keeps a running mean, in project and in training, where both belong."""

    gates = ("n",)

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.register_buffer("mean", torch.zeros(self.hidden_size))

    def project(self, x):
        projected = self.project_gates(x)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(projected.flatten(0, -2).mean(0) + 1, 0.5)
            return {"all": projected - self.mean, "mask": torch.rand_like(projected)}
        return {"all": projected - self.mean}

    def update(self, a, s):
        n = torch.tanh(a.n)
        return n * a.x.mask if self.training else n


def test_the_check_disturbs_neither_generators_nor_statistics():
    x = torch.randn(2, 3)

    def seeded(kind):
        torch.manual_seed(0)
        cell = build_cell(kind, 3, 4)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        purity.check(cell)
        after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        assert before[0].equal(after[0])
        assert before[1:] == after[1:]
        assert cell.mean.eq(0).all()
        assert cell.norm.num_batches_tracked == 0
        assert cell.training
        output, _ = cell.step(x)
        assert cell.mean.ne(0).all()
        return output

    class Fresh(Noisy):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.norm = torch.nn.BatchNorm1d(3)

        def project(self, x):
            return super().project(self.norm(x))

    first, second = seeded(Fresh), seeded(Fresh)  # checked, and known already
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_statistics_of_a_sequence_layer_move_with_its_training_only():
    rnn = RNN(Noisy, 3, 4)
    assert rnn.mean_l0.eq(0).all()
    rnn.eval()(torch.randn(2, 3, 3))
    assert rnn.mean_l0.eq(0).all()
    rnn.train()(torch.randn(2, 3, 3))
    assert rnn.mean_l0.ne(0).all()
    assert list(rnn.state_dict())[-1] == "mean_l0"


def test_modules_of_a_cell_are_refused_by_the_sequence_layer():
    class Holds(Cell):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.norm = torch.nn.LayerNorm(4)

    with pytest.raises(TypeError, match=r"holds modules \(norm\): declare their weights as extra"):
        RNN(Holds, 3, 4)


def test_a_gate_that_update_has_no_use_for_is_refused():
    class ForgetsX(GatedCell):
        gates = {"r": Gate(), "n": Gate(late=True)}

        def update(self, a, s):
            return tanh(self.product("n", sigmoid(a.r) * s.h))

    class ForgetsItsProduct(GatedCell):
        gates = {"r": Gate(), "n": Gate(late=True)}

        def update(self, a, s):
            return tanh(a.n) * sigmoid(a.r)

    class ForgetsTheState(GatedCell):
        gates = ("n", "z")

        def update(self, a, s):
            return tanh(a.n) * a.x.z

    for cell, message in (
        (ForgetsX, r"gate 'n' has from x: read a\.n"),
        (ForgetsItsProduct, r"gate 'n' has from its late product"),
        (ForgetsTheState, r"gate 'z' has from the state"),
    ):
        with pytest.raises(TypeError, match=message):
            RNN(cell, 3, 4)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        ("a.g", r"no gate 'g'"),
        ("s.d", r"no state 'd': the states are h, c"),
        ("self.peephol", r"did you mean 'peephole'"),
    ],
)
def test_a_name_that_is_not_declared_is_said_with_its_line(read, message):
    class Misspelt(GatedCell):
        gates = ("n",)
        states = ("h", "c")
        extra = {"peephole": Extra("hidden_size")}

        def update(self, a, s):
            return tanh(a.n) * eval(read, {"a": a, "s": s, "self": self}), s.c

    with pytest.raises(
        AttributeError, match=rf"Misspelt\.update, .*test_purity\.py:\d+: .*{message}"
    ):
        RNN(Misspelt, 3, 4)


def test_what_came_back_instead_of_the_states_is_said():
    class ForgetsC(GatedCell):
        gates = ("n",)
        states = ("h", "c")

        def update(self, a, s):
            return tanh(a.n)

    with pytest.raises(TypeError, match=r"the states \(h, c\).*it returned Tensor"):
        RNN(ForgetsC, 3, 4)
    with pytest.raises(TypeError, match=r"declares 'state': did you mean 'states'"):

        class Misdeclared(GatedCell):
            gates = ("n",)
            state = ("h", "c")
