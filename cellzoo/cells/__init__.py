"""Recurrent cells: the base class, then one file a family."""

from cellzoo.cells.base import GatedCell, build_cell, list_cells, register_cell
from cellzoo.cells.declare import Extra, Gate, State
from cellzoo.cells.elman import Elman
from cellzoo.cells.gru import GRU, GRUv1
from cellzoo.cells.lstm import CIFGLSTM, LSTM, LayerNormLSTM, PeepholeLSTM

__all__ = [
    "CIFGLSTM",
    "GRU",
    "LSTM",
    "Elman",
    "Extra",
    "GRUv1",
    "Gate",
    "GatedCell",
    "LayerNormLSTM",
    "PeepholeLSTM",
    "State",
    "build_cell",
    "list_cells",
    "register_cell",
]
