"""The registry of cells: names for classes."""

from __future__ import annotations

from typing import Any

from cellzoo.cells.base import GatedCell
from cellzoo.names.registry import Registry

cells: Registry[type[GatedCell]] = Registry("cell")


def register_cell(name: str) -> Any:
    """Register the decorated cell under a name, which `RNN(name, …)` and `cell=name` then take.

    Args:
        name: an identifier in snake case.

    Raises:
        DuplicateNameError: the name is taken.
        TypeError: the decorated object is not a subclass of GatedCell.

    Example:
        >>> import torch
        >>> @register_cell("scaled_elman")
        ... class ScaledElman(GatedCell):
        ...     gates = ("n",)
        ...
        ...     def update(self, a, s):
        ...         return 0.9 * torch.tanh(a.n)
        >>> build_cell("scaled_elman", 3, 4)
        ScaledElman(3, 4, bias=True)
        >>> cells.forget(["scaled_elman"])
    """
    return cells.register_class(name, GatedCell)


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
