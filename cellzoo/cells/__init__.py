"""How a cell is written: what its author declares, and what the base class makes of it."""

from cellzoo.cells.base import GatedCell
from cellzoo.cells.declare import Extra, Gate, State
from cellzoo.cells.registry import build_cell, list_cells, register_cell

__all__ = ["Extra", "Gate", "GatedCell", "State", "build_cell", "list_cells", "register_cell"]
