"""Recurrent cells: the base class, then one file a family; each registers its cells."""

from cellzoo.cells import (
    additive,
    bistable,
    elman,
    fast,
    gru,
    highway,
    ligru,
    lstm,
    minimal,
    mutations,
    simple,
    simple_gated,
)
from cellzoo.cells.base import GatedCell, build_cell, list_cells, register_cell
from cellzoo.cells.declare import Extra, Gate, State

__all__ = [
    "Extra",
    "Gate",
    "GatedCell",
    "State",
    "additive",
    "bistable",
    "build_cell",
    "elman",
    "fast",
    "gru",
    "highway",
    "ligru",
    "list_cells",
    "lstm",
    "minimal",
    "mutations",
    "register_cell",
    "simple",
    "simple_gated",
]
