"""Recurrent cells: the base class, then one file a family; each registers its cells."""

from cellzoo.cells import elman, gru, lstm
from cellzoo.cells.base import GatedCell, build_cell, list_cells, register_cell
from cellzoo.cells.declare import Extra, Gate, State

__all__ = [
    "Extra",
    "Gate",
    "GatedCell",
    "State",
    "build_cell",
    "elman",
    "gru",
    "list_cells",
    "lstm",
    "register_cell",
]
