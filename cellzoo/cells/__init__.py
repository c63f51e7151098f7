"""How a cell is written: the declarations of its author, and the base class that reads them."""

from cellzoo.cells.base import GatedCell
from cellzoo.cells.declare import Extra, Gate, State
from cellzoo.cells.registry import build_cell, list_cells, register_cell

__all__ = ["Extra", "Gate", "GatedCell", "State", "build_cell", "list_cells", "register_cell"]
