"""The discovery of what a cell's step reads, multiplies and returns."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from cellzoo.cells.layout import Block
from cellzoo.cells.preactivations import Part, PreActivations, states_type
from cellzoo.cells.prepared import PreparedCell, run_update
from cellzoo.cells.protocol import Cell
from cellzoo.engines.compiled.formulas import Formulas
from cellzoo.engines.compiled.groups import Parameters, Tensors
from cellzoo.engines.compiled.precision import as_autocast, in_half_precision
from cellzoo.engines.compiled.projection import completed, product_of


class Shape(NamedTuple):
    """The shape of a tensor of one step, (B, width), and its dtype."""

    width: int
    dtype: torch.dtype


class Discovery:
    """The structure of a cell's step, found by running one update on the meta device.

    Args:
        prepared: a prepared cell.
        complete: whether a step may compute what `project` computes after its product.

    Attributes:
        cell: the cell without the values of its parameters, which are passed in at each step.
        projected: the names of the projected tensors.
        projection: the parameters of the product with x, if `project` is one product for all
            steps, which the engine makes; else empty, and `project` makes all of it.
        completes: whether a step computes the rest of `project`.
        early, late: the products of a step, by the names of their gates (or extra matrix).
        whole: the early products that are one matrix; a step makes the others itself.
        extras: the other parameters and buffers that the update may read.
        spread: whether each extra acts on each sequence of a batch by itself, unit by unit. The
            gradient is then summed over the batch after the loop, not at each step.
        summed: whether the update reads only the sum of the fused projection and of the one early
            product. Then the sum is kept for the backward pass instead of both.
        kept: the places of the projected tensors that the backward pass needs.
        output: the place of the state that is the output; else the output's shape.
        operands: the shapes of the operands of the late products.
        states: the number of states.
        identity: a text of all that the step does: the update's operations on tensors of these
            widths, and the origin of each tensor.
    """

    extras: list[str]
    spread: list[bool]
    output: int | Shape

    def __init__(self, prepared: PreparedCell, complete: bool = True) -> None:
        self.cell: Cell = prepared.cell
        self.projected: tuple[str, ...] = ("all",)
        self.projection = () if in_half_precision(self.cell) else product_of(self.cell)
        self.completes = False
        self.early = list(prepared.products.early)
        self.whole = [names for names in self.early if self.is_full(names)]
        self.late: list[tuple[str, ...]] = []
        self.operands: list[Shape] = []
        self.summed = False
        self.states = len(self.cell.layout.states)
        self.identity = self._discover(self.cell, complete)
        self.kept = [n for n, name in enumerate(self.projected) if not self.summed or name != "all"]

    def parameters_of(self, prepared: PreparedCell) -> Parameters:
        """Return the weights and biases of a cell's products, and its extras."""
        cell, products = prepared.cell, prepared.products
        fused: list[tuple[Tensor, Tensor | None]] = [
            products.early[names][1:] for names in self.early
        ]
        for names in self.late:
            matrix = names[0] in cell._matrices
            fused.append(
                (getattr(cell, names[0]), None) if matrix else products.gather(names, late=True)[1:]
            )
        weights = [
            as_autocast(weight) if self.is_full(names) else weight
            for names, (weight, _) in zip([*self.early, *self.late], fused, strict=True)
        ]
        biases = [bias for _, bias in fused if bias is not None]
        return Parameters(weights, biases, [getattr(cell, name) for name in self.extras])

    def operand(self, names: tuple[str, ...], states: Tensors) -> Tensor:
        """Return the operand of an early product."""
        parts = [states[place] for place in self.operand_of(names)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def operand_of(self, names: tuple[str, ...]) -> list[int]:
        """Return the places of the states that are the operand of an early product."""
        order = list(self.cell.layout.states)
        return [order.index(name) for name in self._block(names).operand]

    def product(self, names: tuple[str, ...], v: Tensor, weight: Tensor) -> Tensor:
        """Return the product of these gates (or of the extra matrix) with v (…, columns)."""
        if self.is_full(names):
            return functional.linear(v.to(weight.dtype), weight).to(v.dtype)
        return self._block(names).product(v, weight, None, len(names))

    def is_full(self, names: tuple[str, ...]) -> bool:
        """Return whether this product is one matrix."""
        return names[0] in self.cell._matrices or self._block(names).kind == "full"

    def heads(self, names: tuple[str, ...]) -> int:
        """Return the number of heads of these gates' product; 1 if it has none."""
        return self._block(names).heads

    def rows(self, names: tuple[str, ...]) -> int:
        """Return the width of an early product."""
        return sum(self.cell.layout.h_sizes[name] for name in names)

    @property
    def within(self) -> list[int]:
        """Return the places of the projected tensors that a forward step reads."""
        return self.kept if self.whole else list(range(len(self.projected)))

    def with_spread(self, extras: Tensors) -> Iterable[tuple[Tensor, bool]]:
        """Return each extra, or its gradient, with its `spread`."""
        return zip(extras, self.spread, strict=True)

    def _block(self, names: tuple[str, ...]) -> Block:
        layout = self.cell.layout
        return layout.blocks[layout.h_rows[names[0]][0]]

    def _discover(self, cell: Cell, complete: bool) -> str:
        """Run one update on the meta device, set the attributes and return the identity."""
        layout, like = cell.layout, cell._like
        matrices = {name: len(getattr(cell, name)) for name in cell._matrices}

        def multiply(gate: str | tuple[str, ...], v: Tensor) -> Any:
            names = (gate,) if isinstance(gate, str) else tuple(gate)
            self.late.append(names)
            self.operands.append(Shape(v.shape[-1], v.dtype))
            rows = matrices if names[0] in matrices else self._block(names).rows
            parts = [v.new_empty(len(v), rows[name]) for name in names]
            return parts[0] if isinstance(gate, str) else parts

        read: dict[str, None] = {}
        with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
            widths = {extent for tensor in cell._parameters.values() if tensor is not None
                      for extent in tensor.shape}  # fmt: skip
            batch = next(n for n in range(2, 10_000) if n not in widths)
            x = torch.zeros(batch, cell.input_size, dtype=like.dtype, device=like.device)
            # Copies, because a projection in training may update its buffers.
            buffers = {name: b if b is None else b.clone() for name, b in cell._buffers.items()}
            with torch.random.fork_rng([like.device] if like.is_cuda else []):
                projected = cell.bind(cell._parameters, buffers).project_sequence(x, None)
            projected = {name: tensor.to("meta") for name, tensor in projected.items()}
            initial = [state.to("meta") for state in cell.initial_state(batch)]
            states = states_type(tuple(layout.states))(*initial)
            self.cell = skeleton = cell.bind(
                _Recorded(read, cell._parameters), _Recorded(read, cell._buffers), product=multiply
            )
            if self.projection:
                width = sum(layout.x_sizes.values())
                product = torch.empty(batch, width, dtype=like.dtype, device="meta")
                named = completed(skeleton, product)
                self.completes = named.keys() != {"all"} or named["all"] is not product
                if self.completes and not complete:
                    self.projection, self.completes = (), False
            if not self.completes:
                self.projected = tuple(projected)
                self.summed = self._reads_sums_only(projected, states)
            for record in (read, self.late, self.operands):
                record.clear()
            with _Operations(batch) as operations, Formulas():
                named = completed(skeleton, product) if self.completes else projected
                early = [x.new_empty(batch, self.rows(n), device="meta") for n in self.early]
                h = layout.joined(self.early, early)
                step = run_update(
                    skeleton, PreActivations(Part.of_x(named, layout.x_sizes), h), states
                )
        same = [n for n, state in enumerate(step.states) if state is step.output]
        self.output = same[0] if same else Shape(step.output.shape[-1], step.output.dtype)
        of_engine = self.projection if self.completes else ()
        self.extras = [n for n in read if getattr(cell, n) is not None and n not in of_engine]
        extras = [getattr(skeleton, name) for name in self.extras]
        self.spread = [operations.spreads(extra) for extra in extras]
        blocks = [(name, b.kind, b.operand, b.heads) for name, b in layout.blocks.items()]
        facts = [
            self.summed, self.completes, cell.bias, self.projected, self.early, self.late,
            self.extras, self.spread, self.output, blocks, projected, initial, extras, step,
        ]  # fmt: skip
        return "\n".join([*operations.lines, *(str(operations.shown(fact)) for fact in facts)])

    def _reads_sums_only(self, projected: Mapping[str, Tensor], states: Any) -> bool:
        """Try an update on sums, without either part of them."""
        layout = self.cell.layout
        if len(self.early) != 1 or layout.x_sizes != layout.h_sizes or "all" not in projected:
            return False
        others = {name: tensor for name, tensor in projected.items() if name != "all"}
        x = Part.of_x(others, layout.x_sizes)
        try:
            self.cell.update(PreActivations.of_sums(projected["all"], x, layout.h_sizes), states)
        except AttributeError:
            return False
        return True


class _Operations(TorchDispatchMode):
    """A record of the operations on tensors, as text.

    Args:
        batch: the batch size, which equals no other extent.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.lines: list[str] = []
        self._fused: set[int] = set()  # tensors in operations other than broadcasting
        self._numbers: dict[int, int] = {}
        self._held: list[Tensor] = []  # keeps each id with its tensor

    def shown(self, values: Any) -> Any:
        """Return values with each tensor replaced by its number, shape and dtype."""
        return tree_map(lambda v: self._shown(v) if isinstance(v, Tensor) else v, values)

    def _shown(self, tensor: Tensor) -> str:
        if id(tensor) not in self._numbers:
            self._numbers[id(tensor)] = len(self._numbers)
            self._held.append(tensor)
        return f"%{self._numbers[id(tensor)]}{tuple(tensor.shape)}{tensor.dtype}"

    def spreads(self, tensor: Tensor) -> bool:
        """Return whether a tensor (H,) was only ever broadcast to (B, H)."""
        return tensor.dim() == 1 and id(tensor) not in self._fused

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        wide = isinstance(result, Tensor) and result.shape[:-1] == (self.batch,)
        if not wide or torch.Tag.pointwise not in func.tags:
            self._fused.update(map(id, tree_leaves((args, kwargs))))
        self.lines.append(f"{func} {self.shown((args, kwargs, result))}")
        return result


class _Recorded(dict[str, Any]):
    """A module's tensors on the meta device, which record their reads."""

    def __init__(self, read: dict[str, None], tensors: Mapping[str, Tensor | None]) -> None:
        super().__init__(
            (name, None if tensor is None else torch.empty_like(tensor, device="meta"))
            for name, tensor in tensors.items()
        )
        self.read = read

    def __getitem__(self, name: str) -> Any:
        self.read[name] = None
        return super().__getitem__(name)
