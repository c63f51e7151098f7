"""The registry: names to things."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cellzoo import (
    RNN,
    DuplicateNameError,
    GatedCell,
    UnknownNameError,
    build_cell,
    list_cells,
    register_cell,
    register_init,
)
from cellzoo.cells.registry import cells
from cellzoo.names.registry import Registry, nearest


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

    try:
        assert "registered_in_a_test" in list_cells()
        assert type(build_cell("registered_in_a_test", 3, 4)) is Mine
        assert build_cell(Mine, 3, 4).name == "registered_in_a_test"
        assert "registered_in_a_test, 3, 4" in repr(RNN(Mine, 3, 4))
    finally:
        cells.forget(["registered_in_a_test"])
    assert "registered_in_a_test" not in list_cells()
