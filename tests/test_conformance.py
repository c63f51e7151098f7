"""The conformance suite for every cell of cellzoo."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from references import REFERENCES

from cellzoo import list_cells
from cellzoo.cells.registry import cells
from cellzoo.names.options import option_specs
from cellzoo.testing import Subject, conformance_tests
from cellzoo.testing.subject import variants

# Without the cells that tests and plugins register.
CELLS = [name for name in list_cells() if cells[name].__module__.startswith("cellzoo.")]


def subjects(name: str) -> Iterator[Subject]:
    """Yield the cell with each set of options of its reference."""
    defaults = {option: spec.default for option, spec in option_specs(cells[name]).items()}
    reference = REFERENCES[name]
    for options in reference.variants:
        formula = reference.parameters if defaults | options == defaults else None
        yield Subject(name, options, reference.step, formula, reference.sizes)


PROJECTED = Subject("lstm", {"proj_size": 2})  # compared with torch.nn in tests/test_rnn.py
test_conformance = conformance_tests(*(s for name in CELLS for s in subjects(name)), PROJECTED)


def test_every_cell_declares_the_source_of_its_reference():
    assert {name: cells[name].reference for name in CELLS} == {
        name: reference.source for name, reference in REFERENCES.items()
    }


@pytest.mark.parametrize("name", CELLS)
def test_every_choice_of_an_option_is_compared(name):
    specs = option_specs(cells[name])
    defaults = {option: spec.default for option, spec in specs.items()}
    compared = [defaults | options for options in REFERENCES[name].variants]
    for options in variants(name):
        ((option, choice),) = options.items() or {("", "")}
        assert not options or any(compared_with[option] == choice for compared_with in compared), (
            options
        )
    assert defaults in compared
