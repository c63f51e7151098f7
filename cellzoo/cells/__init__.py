"""Recurrent cells: the base class, then one file a family; each registers its cells."""

from cellzoo.cells import (
    elman,
    gru,
    layernorm,
    lstm,
    lstm_gating,
    lstm_memory,
    lstm_variants,
    nas,
    phased_lstm,
    strongly_typed,
    xlstm,
)
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
    "layernorm",
    "list_cells",
    "lstm",
    "lstm_gating",
    "lstm_memory",
    "lstm_variants",
    "nas",
    "phased_lstm",
    "register_cell",
    "strongly_typed",
    "xlstm",
]
