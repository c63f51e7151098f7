"""The registry of cells: a name for a class."""

from __future__ import annotations

from typing import Any

from cellzoo.cells.base import GatedCell
from cellzoo.names.registry import Registry

cells: Registry[type[GatedCell]] = Registry("cell")


def register_cell(name: str) -> Any:
    """Register a cell under a name: `RNN(name, …)` and `cell=name` find it from then on.

    Raises:
        DuplicateNameError: the name is taken.
        TypeError: what is decorated is not a GatedCell.
    """

    return cells.register_class(name, GatedCell)


def list_cells(pattern: str = "*") -> list[str]:
    """The names of the registered cells that match a shell-style pattern, sorted."""
    return cells.names(pattern)


def build_cell(
    cell: str | type[GatedCell], input_size: int, hidden_size: int, **options: Any
) -> GatedCell:
    """A cell by its registered name or its class.

    Raises:
        UnknownNameError: no cell has that name; the message names the nearest.
    """
    return cell_class(cell)(input_size, hidden_size, **options)


def cell_class(cell: str | type[GatedCell]) -> type[GatedCell]:
    """The class of a cell given by name or by itself."""
    if isinstance(cell, str):
        return cells[cell]
    if isinstance(cell, type) and issubclass(cell, GatedCell):
        return cell
    raise TypeError(f"a cell is a registered name or a subclass of GatedCell, not {cell!r}")
