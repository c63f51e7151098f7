"""A cell prepared for one sequence: recurrent weights computed once, gathered by product."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cellzoo.cells.layout import Block, gather
from cellzoo.cells.preactivations import Part, PreActivations, states_type
from cellzoo.cells.protocol import Cell
from cellzoo.names.registry import nearest


class StepResult(NamedTuple):
    """The new states in declared order, and the output, of one step."""

    states: tuple[Tensor, ...]
    output: Tensor


class Fused(NamedTuple):
    """The rows of some gates in one recurrent parameter and in bias_hh."""

    block: Block
    weight: Tensor
    bias: Tensor | None


class Products:
    """The products within the steps of one sequence.

    Called as `GatedCell.product`, it applies a late gate's block or an extra matrix.

    Args:
        cell: the cell, bound to its parameters.

    Attributes:
        early: the products that are made before `update`, by the names of their gates.
        late: the products of late gates that `update` has made so far.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._weights = cell.recurrent_weights()
        self.early = {names: self.gather(names, late=False) for names in cell.layout.early()}
        self.late: dict[tuple[str, ...], Fused] = {}

    def __call__(self, gate: str | tuple[str, ...], v: Tensor) -> Any:
        """Return the product with v, (B, rows); for several gates, one tensor each."""
        if isinstance(gate, str) and gate in self._cell._matrices:
            matrix = getattr(self._cell, gate)
            return functional.linear(v, matrix).to(matrix.dtype)
        names = (gate,) if isinstance(gate, str) else tuple(gate)
        if names not in self.late:
            self.late[names] = self.gather(names, late=True)
        block, weight, bias = self.late[names]
        product = block.product(v, weight, bias, len(names)).to(weight.dtype)
        if isinstance(gate, str):
            return product
        return product.split([block.rows[name] for name in names], -1)

    def gather(self, names: Sequence[str], late: bool) -> Fused:
        """Return the rows of some gates of one recurrent parameter.

        Raises:
            ValueError: the gates have no such product, or not one in common.
        """
        cell = self._cell
        gates, h_rows = cell.layout.gates, cell.layout.h_rows
        parameters = {h_rows[name][0] for name in names if name in h_rows}
        wrong = [name for name in names if name not in h_rows or gates[name].late is not late]
        if wrong or len(parameters) != 1:
            lates = [name for name, gate in gates.items() if gate.late]
            hint = nearest("+".join(names), [*lates, *cell._matrices])
            raise ValueError(f"{cell.name}: no late product {'+'.join(names)!r}: {hint}")
        parameter = parameters.pop()
        weight = gather(self._weights[parameter], [h_rows[name][1] for name in names])
        bias: Tensor | None = cell.bias_hh
        if bias is not None:
            bias = gather(bias, [cell.layout.bias_rows[name] for name in names])
        return Fused(cell.layout.blocks[parameter], weight, bias)


class PreparedCell:
    """A cell prepared for one sequence.

    Args:
        cell: the cell, bound to its parameters.
        product: replaces `products` in the calls of `self.product` by `update`.

    Attributes:
        cell: a copy of the cell, with `product` bound to this sequence.
        products: the products of a step.
    """

    def __init__(self, cell: Cell, product: Callable[..., Any] | None = None) -> None:
        self.products = Products(cell)
        self.cell = cell.bind(cell._parameters, product=product or self.products)
        self._states = states_type(tuple(cell.layout.states))

    def pre_activations(
        self, projected: Mapping[str, Tensor], states: tuple[Tensor, ...]
    ) -> PreActivations:
        """Return the pre-activations of one step.

        Args:
            projected: the projections of x at this step, by name, (B, …) each.
            states: the states before the step, (B, width) each.
        """
        layout = self.cell.layout
        by_name = dict(zip(layout.states, states, strict=True))
        products = []
        for names, (block, weight, bias) in self.products.early.items():
            operand = [by_name[name] for name in block.operand]
            v = operand[0] if len(operand) == 1 else torch.cat(operand, -1)
            products.append(block.product(v, weight, bias, len(names)).to(weight.dtype))
        x = Part.of_x(projected, layout.x_sizes)
        return PreActivations(x, layout.joined(list(self.products.early), products))

    def advance(self, projected: Mapping[str, Tensor], states: tuple[Tensor, ...]) -> StepResult:
        """Run one step; arguments as for `pre_activations`."""
        a = self.pre_activations(projected, states)
        return run_update(self.cell, a, self._states(*states))


def run_update(cell: Cell, a: Any, s: Any) -> StepResult:
    """Run `update` and return its states and its output.

    Raises:
        TypeError: `update` returns anything but the declared states, or states and an output.
    """
    result = cell.update(a, s)
    states: Any
    output: Any
    if isinstance(result, Tensor):
        states, output = (result,), result
    elif isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], tuple):
        states, output = result
    else:
        states, output = result, result[0] if isinstance(result, tuple) and result else None
    if (
        not isinstance(states, tuple)
        or len(states) != len(cell.layout.states)
        or not all(isinstance(tensor, Tensor) for tensor in (*states, output))
    ):
        names = ", ".join(cell.layout.states)
        returned = result if isinstance(result, tuple) else (result,)
        kinds = [type(value).__name__ for value in returned]
        raise TypeError(
            f"{cell.name}.update must return the states ({names}) as tensors, or "
            f"((states…), output); it returned {', '.join(kinds) or 'nothing'}"
        )
    return StepResult(states, output)
