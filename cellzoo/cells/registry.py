"""The registry of cells: names for classes."""

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
        >>> cells.forget(["leaky_tanh"])
    """
    return cells.register_class(name, GatedCell, deprecated)


def list_cells(pattern: str = "*") -> list[str]:
    """Return the names of the registered cells that match a shell-style pattern, sorted.

    Example:
        >>> import cellzoo
        >>> cellzoo.list_cells("layernorm_*")
        ['layernorm_elman', 'layernorm_gru', 'layernorm_indrnn', 'layernorm_lstm']
    """
    return cells.names(pattern)


def build_cell(
    cell: str | type[GatedCell], input_size: int, hidden_size: int, **options: Any
) -> GatedCell:
    """Build a cell from its registered name or its class.

    Args:
        cell: a registered name or a subclass of GatedCell.
        input_size: I.
        hidden_size: H.
        options: further arguments of the cell: `bias`, `device`, `dtype` and its own options.

    Raises:
        UnknownNameError: no cell has that name; the message names the nearest.

    Example:
        >>> import cellzoo
        >>> cellzoo.build_cell("lstm", 3, 4, proj_size=2)
        LSTM(3, 4, bias=True, proj_size=2)
    """
    return cell_class(cell)(input_size, hidden_size, **options)


def cell_class(cell: str | type[GatedCell]) -> type[GatedCell]:
    """Return the class of a cell from its registered name or the class itself."""
    if isinstance(cell, str):
        return cells[cell]
    if isinstance(cell, type) and issubclass(cell, GatedCell):
        return cell
    raise TypeError(f"a cell is a registered name or a subclass of GatedCell, not {cell!r}")
