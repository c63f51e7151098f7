"""How a cell is written: the declarations of its author, and the base class that reads them."""

from cellzoo.cells.base import GatedCell
from cellzoo.cells.declare import Extra, Gate, State
from cellzoo.cells.linear import recur
from cellzoo.cells.preactivations import PreActivations
from cellzoo.cells.registry import build_cell, list_cells, register_cell
from cellzoo.names.options import option
