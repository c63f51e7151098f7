"""Recurrent cells: the base class, then one file a family; each registers its cells."""

from cellzoo.cells import (
    antisymmetric,
    clockwork,
    continuous,
    elman,
    gru,
    indrnn,
    lmu,
    lru,
    lstm,
    min_rnns,
    orthogonal,
    oscillatory,
    qrnn,
    reservoir,
    sru,
)
from cellzoo.cells.base import GatedCell, build_cell, list_cells, register_cell
from cellzoo.cells.declare import Extra, Gate, State

__all__ = [
    "Extra",
    "Gate",
    "GatedCell",
    "State",
    "antisymmetric",
    "build_cell",
    "clockwork",
    "continuous",
    "elman",
    "gru",
    "indrnn",
    "list_cells",
    "lmu",
    "lru",
    "lstm",
    "min_rnns",
    "orthogonal",
    "oscillatory",
    "qrnn",
    "register_cell",
    "reservoir",
    "sru",
]
