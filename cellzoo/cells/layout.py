"""The rows of a cell's fused parameters, from the declarations."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cellzoo.cells.declare import Gate, State
from cellzoo.cells.preactivations import Part

RESERVED = {*keyword.kwlist, "all", "dt"}


@dataclass
class Block:
    """The recurrent blocks of one operand and kind, fused in one parameter."""

    kind: str
    operand: tuple[str, ...]
    columns: int
    heads: int
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the fused parameter."""
        total = sum(self.rows.values())
        return (total,) if self.kind == "diagonal" else (total, self.columns // self.heads)

    def product(self, v: Tensor, weight: Tensor, bias: Tensor | None, gates: int) -> Tensor:
        """Apply the blocks of some gates.

        Args:
            v: (B, columns).
            weight: the rows of these gates, (rows, …).
            bias: (rows,) or None.
            gates: the number of gates.

        Returns:
            (B, rows).
        """
        if self.kind == "full":
            return functional.linear(v, weight, bias)
        if self.kind == "diagonal":
            result = (v.unsqueeze(-2) * weight.unflatten(0, (gates, -1))).flatten(-2)
        else:
            blocks = weight.unflatten(0, (gates, self.heads, -1))
            heads = v.unflatten(-1, (self.heads, -1))
            result = torch.einsum("...nd,gnod->...gno", heads, blocks).flatten(-3)
        return result if bias is None else result + bias


@dataclass
class Layout:
    """The rows of each gate in each fused parameter.

    Attributes:
        gates, states: the declarations, by name and in order.
        blocks: the recurrent weights by parameter name.
        x_sizes, h_sizes: the rows of each gate in the fused projections of x and of the states.
            The latter exclude late gates.
        x_rows, bias_rows: each gate's rows in weight_ih and bias_ih, and in bias_hh.
        h_rows: each gate's recurrent weight and its rows there.
    """

    gates: dict[str, Gate]
    states: dict[str, State]
    blocks: dict[str, Block] = field(default_factory=dict)
    x_sizes: dict[str, int] = field(default_factory=dict)
    h_sizes: dict[str, int] = field(default_factory=dict)
    x_rows: dict[str, slice] = field(default_factory=dict)
    bias_rows: dict[str, slice] = field(default_factory=dict)
    h_rows: dict[str, tuple[str, slice]] = field(default_factory=dict)

    @classmethod
    def of(cls, cell: Any) -> Layout:
        """Return the layout of a cell's declarations.

        Raises:
            TypeError: a name is invalid, an operand is not a state, or `keep` is wrong.
            ValueError: widths do not fit together.
        """
        layout = cls(_declared(cell, cell.gates, Gate), _declared(cell, cell.states, State))
        layout._check(cell)
        for name, gate in layout.gates.items():
            layout._add(cell, name, gate)
        return layout

    def _add(self, cell: Any, name: str, gate: Gate) -> None:
        rows = cell.width(gate.width)
        if gate.x == "full":
            self.x_rows[name] = _next_rows(self.x_rows.values(), rows)
            self.x_sizes[name] = rows
        if gate.state == "none":
            return
        operand = (gate.of,) if isinstance(gate.of, str) else tuple(gate.of)
        parts = ["weight_hh", *(() if operand == ("h",) else operand)]
        parameter = "_".join([*parts, *(() if gate.state == "full" else (gate.state,))])
        columns = sum(cell.width((self.gates | self.states)[source].width) for source in operand)
        heads = cell.width(gate.heads) if gate.state == "heads" else 1
        kind = "full" if gate.state == "heads" and heads == 1 else gate.state
        block = self.blocks.setdefault(parameter, Block(kind, operand, columns, heads))
        if (block.kind, block.operand) != (kind, operand):
            raise TypeError(f"{cell.name}: {parameter} would belong to two operands")
        alike = gate.state != "heads" or rows == next(iter(block.rows.values()), rows)
        if heads != block.heads or columns % heads or rows % heads or not alike:
            raise ValueError(
                f"{cell.name}: gate {name!r} ({rows} × {columns}) does not divide into {heads} "
                f"heads like the other gates of {parameter}"
            )
        if gate.state == "diagonal" and rows != columns:
            raise ValueError(f"{cell.name}: the diagonal block of {name!r} is not square")
        taken = [piece for weight, piece in self.h_rows.values() if weight == parameter]
        self.h_rows[name] = parameter, _next_rows(taken, rows)
        self.bias_rows[name] = _next_rows(self.bias_rows.values(), rows)
        block.rows[name] = rows
        if not gate.late:
            self.h_sizes[name] = rows

    def _check(self, cell: Any) -> None:
        if not (self.gates or cell.extra) or not self.states:
            raise TypeError(f"{cell.name} must declare its gates and its states")
        known = {*self.gates, *self.states}
        for name in known:
            if not name.isidentifier() or name.startswith("_") or name in RESERVED:
                raise TypeError(f"{cell.name}: {name!r} cannot be the name of a gate or a state")
        if taken := {"x", "h"} & {*self.gates}:
            name = taken.pop()
            raise TypeError(f"{cell.name}: a gate cannot be called {name!r}: a.{name} is a part")
        for name, gate in self.gates.items():
            operand = {gate.of} if isinstance(gate.of, str) else {*gate.of}
            unknown = operand - (known if gate.late else {*self.states})
            if gate.state != "none" and cell.linear:
                raise TypeError(f"{cell.name} is linear: gate {name!r} cannot read a state")
            if gate.state != "none" and unknown:
                raise TypeError(
                    f"{cell.name}: gate {name!r} reads {unknown}: no state has that name"
                )
        for role in ("keep", "write"):
            for name, sign in getattr(cell, role).items():
                if name not in self.gates or sign not in (-1, 1):
                    raise TypeError(f"{cell.name}: {role} maps a gate to +1 or −1, not {name!r}")

    def early(self) -> list[tuple[str, ...]]:
        """Return the gates with products that are made before `update`, grouped by parameter."""
        names = (
            tuple(name for name in self.h_sizes if name in block.rows)
            for block in self.blocks.values()
        )
        return [group for group in names if group]

    def joined(self, groups: Sequence[tuple[str, ...]], products: Sequence[Tensor]) -> Part:
        """Return the products of the `early` groups as one part, in declared order."""
        if len(products) < 2:
            return Part(products[0] if products else None, self.h_sizes, {})
        by_gate: dict[str, Tensor] = {}
        for names, product in zip(groups, products, strict=True):
            sizes = [self.h_sizes[name] for name in names]
            by_gate.update(zip(names, product.split(sizes, -1), strict=True))
        whole = torch.cat([by_gate[name] for name in self.h_sizes], -1)
        return Part(whole, self.h_sizes, by_gate)

    def rows(self, parameter: str) -> dict[str, slice]:
        """Return the rows of each gate in a fused parameter; empty for any other parameter."""
        if parameter in ("weight_ih", "bias_ih"):
            return self.x_rows
        if parameter == "bias_hh":
            return self.bias_rows
        return {gate: rows for gate, (name, rows) in self.h_rows.items() if name == parameter}


def _declared(cell: Any, given: Any, kind: type) -> dict[str, Any]:
    """Return declarations by name; a name alone stands for the defaults."""
    if isinstance(given, Mapping):
        return dict(given)
    names = list(given)
    if twice := {name for name in names if names.count(name) > 1}:
        raise TypeError(f"{cell.name} declares {', '.join(map(repr, sorted(twice)))} twice")
    return {name: kind() for name in names}


def _next_rows(taken: Iterable[slice], rows: int) -> slice:
    start = max((piece.stop for piece in taken), default=0)
    return slice(start, start + rows)


def gather(tensor: Tensor, pieces: list[slice]) -> Tensor:
    """Return rows of a fused tensor: the tensor or a view if they are adjacent, else a copy."""
    if all(a.stop == b.start for a, b in pairwise(pieces)):
        start, stop = pieces[0].start, pieces[-1].stop
        return tensor if (start, stop) == (0, len(tensor)) else tensor[start:stop]
    return torch.cat([tensor[piece] for piece in pieces])
