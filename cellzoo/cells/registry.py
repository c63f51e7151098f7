"""The registry of cells: a name for a class."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cellzoo.cells.base import GatedCell
from cellzoo.names.registry import Registry

cells: Registry[type[GatedCell]] = Registry("cell")


def register_cell(name: str, deprecated: Collection[str] = ()) -> Any:
    """Return a class decorator that registers a cell.

    Args:
        name: The name by which `RNN(name, …)` and `cell=name` find the cell, in snake case.
        deprecated: Former names of the cell. They still work, warn once and are not listed.

    Raises:
        DuplicateNameError: A name is taken.
        TypeError: The decorated object is not a subclass of GatedCell.

    Example:
        >>> from cellzoo import RNN, GatedCell, register_cell
        >>> @register_cell("leaky_tanh")
        ... class LeakyTanh(GatedCell):
        ...     gates = ("n",)
        ...
        ...     def update(self, a, s):
        ...         return 0.9 * s.h + 0.1 * a.n.tanh()
        >>> RNN("leaky_tanh", input_size=3, hidden_size=4)
        RNN(leaky_tanh, 3, 4)
    """
    return cells.register_class(name, GatedCell, deprecated)


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
