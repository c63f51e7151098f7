"""Registries: names, deprecated names and discovery."""

import subprocess
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cellzoo import (
    RNN,
    DuplicateNameError,
    GatedCell,
    Task,
    UnknownNameError,
    build_cell,
    list_cells,
    list_inits,
    list_tasks,
    register_cell,
    register_init,
    register_task,
)
from cellzoo.cells.registry import cells
from cellzoo.names.registry import Registry, nearest
from cellzoo.tasks import tasks


@pytest.fixture
def registry():
    things = Registry("thing")
    for name in ("apple", "apricot", "plum"):
        things.register(name)(name.upper())
    return things


def test_register_gives_back_what_it_got(registry):
    thing = object()
    assert registry.register("cherry")(thing) is thing
    assert registry["cherry"] is thing


def test_a_duplicate_raises_and_changes_nothing(registry):
    with pytest.raises(DuplicateNameError, match="thing 'plum' is already registered"):
        registry.register("plum")(0)
    assert registry["plum"] == "PLUM"


@pytest.mark.parametrize("name", ["", "two words", "Plum", "1st", "a-b", None, 3])
def test_a_name_is_an_identifier_in_snake_case(registry, name):
    with pytest.raises(ValueError, match="a thing's name is an identifier"):
        registry.register(name)


def test_an_unknown_name_names_the_nearest(registry):
    with pytest.raises(UnknownNameError, match=r"unknown thing 'aple': did you mean 'apple'\?"):
        registry["aple"]
    with pytest.raises(UnknownNameError, match="known: apple, apricot, plum"):
        registry["xyz"]
    for name in (None, 3, ["plum"]):
        with pytest.raises(UnknownNameError):
            registry[name]
    with pytest.raises(LookupError, match="known: none"):
        Registry("empty")["x"]


@given(st.text(), st.lists(st.text()))
def test_nearest_always_says_something(name, names):
    assert nearest(name, names)


def test_patterns(registry):
    assert registry.names() == ["apple", "apricot", "plum"]
    assert registry.names("ap*") == ["apple", "apricot"]
    assert registry.names("?lum") == ["plum"]
    assert registry.names("x*") == []


def test_plugins_are_brought_in_once_and_not_before_a_name_is_looked_up(registry, monkeypatch):
    calls = []
    monkeypatch.setattr(Registry, "discover", lambda: calls.append(1))
    registry.register("cherry")(1)
    assert calls == []
    assert registry["cherry"] == 1
    assert registry.names("c*") == ["cherry"]
    assert calls == [1]


def test_plugins_that_fail_fail_again(registry, monkeypatch):
    def broken():
        raise RuntimeError("plugin")

    monkeypatch.setattr(Registry, "discover", broken)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="plugin"):
            registry.names()


def test_a_deprecated_name_works_warns_once_and_is_not_listed(registry):
    registry.register("cherry", deprecated=("cherries", "kirsch"))("CHERRY")
    with pytest.warns(FutureWarning, match="thing 'kirsch' is deprecated: use 'cherry'"):
        assert registry["kirsch"] == "CHERRY"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry["kirsch"] == "CHERRY"
        assert registry.resolve("kirsch") == "cherry"
        assert registry.resolve("plum") == "plum"
        assert registry.resolve("unknown") == "unknown"
    assert registry.names() == ["apple", "apricot", "cherry", "plum"]
    assert registry.deprecated_names() == {"cherries": "cherry", "kirsch": "cherry"}
    registry.forget(["cherry"])
    with pytest.raises(UnknownNameError, match="unknown thing 'kirsch'"):
        registry["kirsch"]


@pytest.mark.parametrize(
    ("name", "deprecated"),
    [
        ("cherry", ("plum",)),  # a present name
        ("cherry", ("prune",)),  # a deprecated name of another object
        ("prune", ()),
        ("cherry", ("cherry",)),
        ("cherry", ("kirsch", "kirsch")),
    ],
)
def test_a_deprecated_name_that_clashes_raises_and_changes_nothing(registry, name, deprecated):
    registry.register("damson", deprecated=("prune",))(1)
    with pytest.raises(DuplicateNameError):
        registry.register(name, deprecated)(2)
    assert registry.names() == ["apple", "apricot", "damson", "plum"]
    assert registry.deprecated_names() == {"prune": "damson"}
    with pytest.raises(ValueError, match="'Old Name'"):
        registry.register("cherry", deprecated=("Old Name",))


def test_a_notebook_may_register_again_with_its_deprecated_names(registry):
    def cell():
        """A function that a notebook's cell defines."""

    cell.__module__ = "__main__"
    for _ in range(2):
        registry.register("cherry", deprecated=("kirsch",))(cell)
    with pytest.raises(DuplicateNameError, match="'plum'"):
        registry.register("cherry", deprecated=("plum",))(cell)


def test_a_snapshot_restores_deprecated_names_too(registry):
    registry.register("cherry", deprecated=("kirsch",))(1)
    restore = Registry.snapshot()
    registry.forget(["cherry"])
    registry.register("damson", deprecated=("prune",))(2)
    restore()
    assert registry.names() == ["apple", "apricot", "cherry", "plum"]
    assert registry.deprecated_names() == {"kirsch": "cherry"}


def test_deprecated_names_of_cells_tasks_and_inits():
    @register_cell("renamed_cell", deprecated=("former_cell",))
    class Renamed(GatedCell):
        gates = ("n",)

        def update(self, a, s):
            return a.n

    @register_task("renamed_task", deprecated=("former_task",))
    class RenamedTask(Task):
        pass

    @register_init("renamed_init", deprecated=("former_init",))
    def renamed(block, hidden_size, *, value=2.0):
        nn.init.constant_(block, value)

    with pytest.warns(FutureWarning, match="cell 'former_cell' is deprecated"):
        assert repr(RNN("former_cell", 3, 4)) == "RNN(renamed_cell, 3, 4)"
    assert type(build_cell("former_cell", 3, 4)) is Renamed
    assert build_cell("former_cell", 3, 4).name == "renamed_cell"
    with pytest.warns(FutureWarning, match="task 'former_task' is deprecated"):
        assert tasks["former_task"] is RenamedTask
    with pytest.warns(FutureWarning, match="init 'former_init' is deprecated"):
        rnn = RNN("lstm", 3, 4, init={"name": "former_init", "value": 3.0})
    assert rnn.init.name == "renamed_init"
    assert (rnn.weight_hh_l0 == 3).all()
    for listed in (list_cells(), list_tasks(), list_inits()):
        assert not [name for name in listed if name.startswith("former")]


def test_forget(registry):
    registry.forget(["plum", "never there"])
    assert registry.names() == ["apple", "apricot"]


def test_cells_by_name():
    assert {"lstm", "peephole_lstm", "cifg_lstm", "layernorm_lstm"} <= set(list_cells("*lstm"))
    assert "gru" not in list_cells("*lstm")
    with pytest.raises(UnknownNameError, match="did you mean 'peephole_lstm'"):
        RNN("peephol_lstm", 3, 4)
    with pytest.raises(DuplicateNameError, match="cell 'lstm' is already registered"):
        register_cell("lstm")(type("Mine", (GatedCell,), {}))
    for wrong in (nn.LSTM, 3, lambda: 0):
        with pytest.raises(TypeError, match=r"subclass of cellzoo\.GatedCell"):
            register_cell("unused_name")(wrong)
    with pytest.raises(DuplicateNameError, match="init 'orthogonal'"):
        register_init("orthogonal")(lambda block, hidden_size: None)


def test_a_registered_cell_is_found_by_its_name():
    @register_cell("registered_in_a_test")
    class Mine(GatedCell):
        gates = ("n",)

        def update(self, a, s):
            return a.n

    assert "registered_in_a_test" in list_cells()
    assert type(build_cell("registered_in_a_test", 3, 4)) is Mine
    assert build_cell(Mine, 3, 4).name == "registered_in_a_test"
    assert "registered_in_a_test, 3, 4" in repr(RNN(Mine, 3, 4))
    cells.forget(["registered_in_a_test"])
    assert "registered_in_a_test" not in list_cells()


def test_a_definition_in_a_console_has_no_source(tmp_path):
    code = """
from cellzoo import GatedCell, register_cell
from cellzoo.names.plugins import only_plugins, plugin_source

@register_cell("of_a_console")
class OfAConsole(GatedCell):
    gates = ("n",)

assert plugin_source(OfAConsole) is None
with only_plugins({}):
    pass
print("fine")
"""
    command = [sys.executable, "-c", "import sys; exec(sys.stdin.read())"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "fine\n", done.stderr
