"""Every cell that cellzoo brings, through the conformance suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from references import REFERENCES

from cellzoo import list_cells
from cellzoo.cells.registry import cells
from cellzoo.names.options import option_specs
from cellzoo.testing import Subject, conformance_tests
from cellzoo.testing.subject import variants

# Those that cellzoo brings; tests and plugins may have registered more.
CELLS = [name for name in list_cells() if cells[name].__module__.startswith("cellzoo.")]


def subjects(name: str) -> Iterator[Subject]:
    """A cell under all the options that its reference is compared under."""
    defaults = {option: spec.default for option, spec in option_specs(cells[name]).items()}
    each = REFERENCES[name]
    for options in each.variants:
        counted = each.parameters if defaults | options == defaults else None
        yield Subject(name, options, each.step, counted, each.sizes)


PROJECTED = Subject("lstm", {"proj_size": 2})  # as torch.nn has it: tests/test_rnn.py
test_conformance = conformance_tests(*(s for name in CELLS for s in subjects(name)), PROJECTED)


def test_every_cell_has_a_reference_and_says_what_it_was_written_from():
    assert {name: cells[name].reference for name in CELLS} == {
        name: each.source for name, each in REFERENCES.items()
    }


@pytest.mark.parametrize("name", CELLS)
def test_every_choice_of_an_option_is_compared(name):
    specs = option_specs(cells[name])
    defaults = {option: spec.default for option, spec in specs.items()}
    compared = [defaults | options for options in REFERENCES[name].variants]
    for options in variants(name):
        ((option, choice),) = options.items() or {("", "")}
        assert not options or any(each[option] == choice for each in compared), options
    assert defaults in compared
