"""A cell's steps as functions of tensors alone: what is compiled.

The products with the states are made beside the steps. A forward step is an update's pointwise
part. A backward step recomputes it, through the update's own vjp, and hands out each product's
gradient, so that a weight's gradient is one product after the loop.

A late product, made inside an update, is p = v Uᵀ + e with e zero: its gradient is e's, and v is
handed out beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from cellzoo.cells.base import GatedCell
from cellzoo.cells.layout import Block, Layout
from cellzoo.cells.preactivations import Part, PreActivations, states_type
from cellzoo.engines.compiled.formulas import Formulas
from cellzoo.engines.compiled.lengths import Lengths
from cellzoo.engines.compiled.projection import completed, product_of
from cellzoo.engines.packing import RunningStates

Tensors = Sequence[Tensor]


class Shape(NamedTuple):
    """A step's tensor: (B, width)."""

    width: int
    dtype: torch.dtype


def grouped(tensors: Sequence[Any], *sizes: int) -> list[list[Any]]:
    """A flat list as lists of these sizes."""
    left = iter(tensors)
    return [[next(left) for _ in range(size)] for size in sizes]


class Steps:
    """A cell's steps, forward and backward.

    Args:
        cell: a prepared cell.
        complete: whether a step may do what `project` does after its product.

    Attributes:
        projected: the names of the projected tensors.
        projection: the parameters of the projection's product with x, where all steps' are one
            product, which the engine makes; else none, and `project` makes all of it.
        completes: whether a step does the rest of `project`.
        early, late: the products of a step, by the names of their gates (or extra matrix).
        whole: the early ones that are one matrix; the others a step makes itself.
        extras: the other parameters and buffers that the update may read.
        spread: those of them that act on each sequence of a batch by itself, unit by unit. Their
            gradients are summed over the batch after the loop, not at each step.
        summed: whether the update reads nothing of the fused projection and of the one early
            product but their sum; then the sum is kept for the backward pass, and they are not.
        kept: the places of the projected tensors that the backward pass needs.
        output: the state that is the output; else the output's shape.
        operands: the shapes of what the late products are applied to.
        identity: all that the steps do, in words: the update's operations on tensors of these
            widths, and where each tensor comes from.
    """

    def __init__(self, cell: GatedCell, complete: bool = True) -> None:
        self.projected: tuple[str, ...] = ("all",)
        self.projection = () if _in_half_precision(cell) else product_of(cell)
        self.completes = False
        self.early = list(cell._early)
        self.late: list[tuple[str, ...]] = []
        self.extras: list[str] = []
        self.spread: list[bool] = []
        self.operands: list[Shape] = []
        self.summed = False
        self.output: int | Shape = 0
        self.identity = ""
        self.cell = cell
        self.whole = [names for names in self.early if self.is_full(names)]
        self.cell = self._discover(cell, complete)
        self.states = len(cell.layout.states)
        self.kept = [n for n, name in enumerate(self.projected) if not self.summed or name != "all"]

    # -- between a prepared cell and flat tensors --------------------------------------------

    def inputs_of(self, cell: GatedCell) -> list[list[Tensor]]:
        """The weights of a prepared cell's products, early ones first; their biases; extras."""
        found: list[Any] = [cell._early[names][1:] for names in self.early]
        for names in self.late:
            matrix = names[0] in cell._matrices
            found.append(
                (getattr(cell, names[0]), None) if matrix else cell._gather(names, late=True)[1:]
            )
        weights = [
            _as_autocast(weight) if self.is_full(names) else weight
            for names, (weight, _) in zip([*self.early, *self.late], found, strict=True)
        ]
        biases = [bias for _, bias in found if bias is not None]
        return [weights, biases, [getattr(cell, name) for name in self.extras]]

    def operand(self, names: tuple[str, ...], states: Tensors) -> Tensor:
        """What an early product is applied to."""
        parts = [states[place] for place in self.operand_of(names)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def operand_of(self, names: tuple[str, ...]) -> list[int]:
        """The places of the states that an early product is applied to."""
        order = list(self.cell.layout.states)
        return [order.index(name) for name in self._block(names).operand]

    def product(self, names: tuple[str, ...], v: Tensor, weight: Tensor) -> Tensor:
        """The product of these gates (or of the extra matrix) with v (…, columns); no bias."""
        if self.is_full(names):
            return functional.linear(v.to(weight.dtype), weight).to(v.dtype)
        return self._block(names).product(v, weight, None, len(names))

    def is_full(self, names: tuple[str, ...]) -> bool:
        """Whether this product is one matrix."""
        return names[0] in self.cell._matrices or self._block(names).kind == "full"

    def heads(self, names: tuple[str, ...]) -> int:
        """The heads of these gates' product; 1 where there are none."""
        return self._block(names).heads

    @property
    def within(self) -> list[int]:
        """The places of the projected tensors that a forward step reads."""
        return self.kept if self.whole else list(range(len(self.projected)))

    # -- all steps, one by one ---------------------------------------------------------------

    def forward(
        self,
        lengths: Lengths,
        projected: Tensors,
        states: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
    ) -> list[Tensor]:
        """All steps.

        Args:
            lengths: of the batch's sequences.
            projected: (rows, …) each.
            states: the initial ones, (B, width) each.
            weights, biases: of the products.
            extras: the other parameters.

        Returns:
            The final states; the outputs, (rows, …); the states, (B + rows, …) each, the initial
            ones and those after each step; the early products (`summed`: the pre-activations).
        """
        running, found = RunningStates(tuple(states), reverse=False), []
        whole = self._whole_weights(weights)
        each = (tensor.split(lengths.batch_sizes) for tensor in projected)
        for size, *given in zip(lengths.batch_sizes, *each, strict=True):
            now = running.resize(size)
            products = [
                self.product(names, self.operand(names, now), weight)
                for names, weight in zip(self.whole, whole, strict=True)
            ]
            if self.summed and products:
                products = [self._sum(given, products[0], biases)]
            read = [given[place] for place in self.within]
            new, output, early = self.forward_step(read, now, products, weights, biases, extras)
            found.append([output, *new, *early])
            running.now = tuple(new)
        (output,), after, early = grouped(
            [torch.cat(parts) for parts in zip(*found, strict=True)],
            1,
            self.states,
            len(self.early),
        )
        held = [torch.cat(parts) for parts in zip(states, after, strict=True)]
        return [*running.final(), output, *held, *early]

    def backward(
        self,
        lengths: Lengths,
        projected: Tensors,
        before: Tensors,
        early: Tensors,
        of_output: Tensor,
        of_final: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
    ) -> list[list[Tensor]]:
        """The vjp of all steps.

        Args:
            lengths, weights, biases, extras: as in `forward`.
            projected: those that are `kept`.
            before: the states before each step, (rows, …) each.
            early: what `forward` gave.
            of_output: the gradient of the outputs, (rows, …).
            of_final: the gradients of the final states.

        Returns:
            The gradients of the initial states; of `extras`; then, (rows, …) each, those of the
            projected tensors that are kept; of the early products, and of the late ones; and what
            these were applied to.
        """
        running, found = RunningStates(tuple(of_final), reverse=True), []
        totals = [torch.zeros_like(extra) for extra in extras]
        each = [
            tensor.split(lengths.batch_sizes) for tensor in (*projected, *before, *early, of_output)
        ]
        sizes = len(projected), self.states, len(self.early)
        for size, *now in reversed(list(zip(lengths.batch_sizes, *each, strict=True))):
            given, old, products, (of_this,) = grouped(now, *sizes, 1)
            sums = [
                total.new_zeros(size, *total.shape) if spread else total
                for total, spread in self._each(totals)
            ]
            of_states, sums, *of_each = self.backward_step(
                given, old, products, of_this, running.resize(size), sums, weights, biases, extras
            )
            totals = [
                total + of.sum(0) if spread else of
                for (total, spread), of in zip(self._each(totals), sums, strict=True)
            ]
            running.now = tuple(self.through_whole(of_each[1], weights, of_states))
            found.append([tensor for group in of_each for tensor in group])
        found.reverse()
        over_time = [torch.cat(parts) for parts in zip(*found, strict=True)]
        late = len(self.late)
        sizes = len(projected), len(self.early) + late, late
        return [[*running.now], totals, *grouped(over_time, *sizes)]

    # -- one step ----------------------------------------------------------------------------

    def forward_step(
        self,
        projected: Tensors,
        states: Tensors,
        products: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """One step.

        Args:
            projected: those `within` a step.
            states: before it.
            products: of the `whole` weights (`summed`: the pre-activations).
            weights, biases, extras: as in `forward`.

        Returns:
            The new states, the output, and the early products (`summed`: the pre-activations).
        """
        cell = self._sized(self._with_extras(extras), states)
        left = iter(products)
        early = [
            next(left)
            if names in self.whole
            else self.product(names, self.operand(names, states), weight)
            for names, weight in zip(self.early, weights, strict=False)
        ]
        if self.summed and not self.whole:
            early = [self._sum(projected, early[0], biases)]
            projected = [projected[place] for place in self.kept]
        new, output, _ = self._update(cell, projected, early, states, weights, biases, None)
        return new, output, early

    def backward_step(
        self,
        projected: Tensors,
        states: Tensors,
        early: Tensors,
        of_output: Tensor,
        of_new: Tensors,
        sums: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
    ) -> list[list[Tensor]]:
        """One step's vjp, but for what the `whole` products hand on to the states.

        Returns:
            The gradients of the old states; the sums of the extras' so far; then the gradients of
            `projected`, of the early products and the late ones, and these ones' operands.
        """
        batch = states[0].shape[0]  # not len(), which would make the size a constant
        shifts = [
            states[0].new_zeros(batch, weight.shape[0]) for weight in weights[len(self.early) :]
        ]

        def update(given: Any, products: Any, old: Any, shifts: Any, extras: Any) -> Any:
            cell = self._sized(self._with_extras(extras), old)
            new, output, operands = self._update(
                cell, given, products, old, weights, biases, shifts
            )
            return (*new, output), operands

        each = [e.expand(batch, -1) if s else e for e, s in self._each(extras)]
        made: Any = torch.func.vjp(update, projected, early, states, shifts, each, has_aux=True)
        _, vjp, operands = made
        of_given, of_products, of_old, of_late, of_extras = vjp((*of_new, of_output))
        of_old = self._through_products(of_products, weights, states, of_old)
        sums = [total + part for total, part in zip(sums, of_extras, strict=True)]
        return [of_old, sums, of_given, [*of_products, *of_late], operands]

    def through_whole(
        self, of_products: Tensors, weights: Tensors, of_states: Tensors
    ) -> list[Tensor]:
        """The states' gradients, with what comes through the `whole` products."""
        found = list(of_states)
        for names, weight, of in zip(self.early, weights, of_products, strict=False):
            if names in self.whole:
                parts = (of.to(weight.dtype) @ weight).to(of.dtype)
                places = self.operand_of(names)
                widths = [found[place].shape[-1] for place in places]
                for place, part in zip(places, parts.split(widths, -1), strict=True):
                    found[place] = found[place] + part
        return found

    # -- parts -------------------------------------------------------------------------------

    def _update(
        self,
        cell: GatedCell,
        projected: Tensors,
        early: Tensors,
        states: Tensors,
        weights: Tensors,
        biases: Tensors,
        shifts: Tensors | None,
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """One update: new states, output, and what each late product was applied to.

        The weights of early products are unread; `shifts` as the module says.
        """
        layout = cell.layout
        biased = self._biased([*self.early, *self.late], biases)
        named = self._named(cell, projected)
        x = Part(named.pop("all", None), layout.x_sizes, named)
        operands: list[Tensor] = []

        def multiply(gate: str | tuple[str, ...], v: Tensor) -> Any:
            number = len(operands)
            operands.append(v)
            place = len(self.early) + number
            fused = self.product(self.late[number], v, weights[place])
            if (bias := biased[place]) is not None:
                fused = fused + bias
            if shifts is not None:
                fused = fused + shifts[number]
            if isinstance(gate, str):
                return fused
            rows = layout.blocks[layout.h_rows[gate[0]][0]].rows
            return fused.split([rows[name] for name in gate], -1)

        clone = cell.bind(cell._parameters)
        clone.__dict__["product"] = multiply
        if self.summed:
            a = PreActivations.of_sums(early[0], x, layout.h_sizes)
        else:
            products = [
                product if bias is None else product + bias
                for product, bias in zip(early, biased, strict=False)
            ]
            a = PreActivations(x, layout.joined(self.early, products))
        with Formulas():
            step = clone.normalise(clone.update(a, states_type(tuple(layout.states))(*states)))
        return list(step.states), step.output, operands

    def _named(self, cell: GatedCell, projected: Tensors) -> dict[str, Tensor]:
        """What is projected and kept, by name."""
        if self.completes:
            with Formulas():
                return completed(cell, projected[0])
        names = [self.projected[place] for place in self.kept]
        return dict(zip(names, projected, strict=True))

    def _sum(self, projected: Tensors, product: Tensor, biases: Tensors) -> Tensor:
        total = projected[self.projected.index("all")] + product
        return total + biases[0] if biases else total

    def _through_products(
        self, of_early: Tensors, weights: Tensors, old: Tensors, of_old: Tensors
    ) -> list[Tensor]:
        """The states' gradients, with what comes through the products made within a step."""
        gradient = list(of_old)
        for names, weight, of_product in zip(self.early, weights, of_early, strict=False):
            if names in self.whole:
                continue

            def apply(*old: Tensor, names: Any = names, weight: Tensor = weight) -> Tensor:
                return self.product(names, self.operand(names, old), weight)

            made: Any = torch.func.vjp(apply, *old)
            gradient = [a + b for a, b in zip(gradient, made[1](of_product), strict=True)]
        return gradient

    def _each(self, extras: Tensors) -> Iterable[tuple[Tensor, bool]]:
        return zip(extras, self.spread, strict=True)

    def _block(self, names: tuple[str, ...]) -> Block:
        layout = self.cell.layout
        return layout.blocks[layout.h_rows[names[0]][0]]

    def _whole_weights(self, weights: Tensors) -> list[Tensor]:
        each = zip(self.early, weights, strict=False)
        return [weight for names, weight in each if names in self.whole]

    def _biased(self, products: list[tuple[str, ...]], biases: Tensors) -> list[Tensor | None]:
        """Each product's bias: extra matrices have none."""
        left = iter(biases)
        return [None if n[0] in self.cell._matrices else next(left, None) for n in products]

    def _with_extras(self, extras: Tensors) -> GatedCell:
        named = dict(zip(self.extras, extras, strict=True))
        cell = self.cell
        return cell.bind(
            {name: named.get(name, tensor) for name, tensor in cell._parameters.items()},
            {name: named.get(name, tensor) for name, tensor in cell._buffers.items()},
        )

    def _sized(self, cell: GatedCell, states: Tensors) -> GatedCell:
        """The cell laid out for the hidden size of these states, which may be symbolic."""
        for state, tensor in zip(cell.layout.states.values(), states, strict=True):
            if state.width == "hidden_size":
                cell.__dict__["hidden_size"] = tensor.shape[-1]
                cell.__dict__["layout"] = Layout.of(cell)
                break
        return cell

    def _discover(self, cell: GatedCell, complete: bool) -> GatedCell:
        """Run one update on the meta device, to see what it reads, multiplies and does.

        Returns:
            The cell without its parameters' values: what flows through it is handed in.
        """

        def multiply(gate: str | tuple[str, ...], v: Tensor) -> Any:
            names = (gate,) if isinstance(gate, str) else tuple(gate)
            self.late.append(names)
            self.operands.append(Shape(v.shape[-1], v.dtype))
            if names[0] in cell._matrices:
                return v.new_empty(len(v), getattr(cell, names[0]).shape[0])
            block = cell._gather(names, late=True)[0]
            parts = [v.new_empty(len(v), block.rows[name]) for name in names]
            return parts[0] if isinstance(gate, str) else parts

        def meta(tensor: Tensor | None) -> Any:
            return None if tensor is None else torch.empty_like(tensor, device="meta")

        seen: dict[str, None] = {}
        like = cell._like
        with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
            widths = {extent for tensor in cell._parameters.values() if tensor is not None
                      for extent in tensor.shape}  # fmt: skip
            batch = next(n for n in range(2, 10_000) if n not in widths)
            x = torch.zeros(batch, cell.input_size, dtype=like.dtype, device=like.device)
            # On copies: a projection in training may count what it sees into its buffers.
            trial = cell.bind(
                cell._parameters,
                {name: b if b is None else b.clone() for name, b in cell._buffers.items()},
            )
            with torch.random.fork_rng([like.device] if like.is_cuda else []):
                given = {k: v.to("meta") for k, v in trial.project_sequence(x, None).items()}
            states = tuple(s.to("meta") for s in cell.initial_state(batch))
            skeleton = cell.bind(
                _Watched(seen, {name: meta(p) for name, p in cell._parameters.items()}),
                _Watched(seen, {name: meta(b) for name, b in cell._buffers.items()}),
            )
            skeleton.__dict__["_early"] = {
                names: (block, meta(weight), meta(bias))
                for names, (block, weight, bias) in cell._early.items()
            }
            skeleton.__dict__["_weights"] = {}
            if self.projection:
                width = sum(cell.layout.x_sizes.values())
                product = torch.empty(batch, width, dtype=like.dtype, device="meta")
                found = completed(skeleton, product)
                self.completes = found.keys() != {"all"} or found["all"] is not product
                if self.completes and not complete:
                    self.projection, self.completes = (), False
            if not self.completes:
                self.projected = tuple(given)
            skeleton.__dict__["product"] = multiply
            kind = states_type(tuple(cell.layout.states))
            self.summed = not self.completes and self._reads_sums_alone(
                skeleton, given, kind(*states)
            )
            seen.clear()
            self.late.clear()
            self.operands.clear()
            with _Operations(batch) as operations, Formulas():
                named = completed(skeleton, product) if self.completes else given
            a = skeleton.pre_activations(named, states)
            with operations, Formulas():
                step = skeleton.normalise(skeleton.update(a, kind(*states)))
        del skeleton.__dict__["product"]
        same = [n for n, state in enumerate(step.states) if state is step.output]
        self.output = same[0] if same else Shape(step.output.shape[-1], step.output.dtype)
        made = self.projection if self.completes else ()
        self.extras = [n for n in seen if getattr(cell, n) is not None and n not in made]
        self.spread = [operations.spreads(getattr(skeleton, name)) for name in self.extras]
        blocks = [(name, b.kind, b.operand, b.heads) for name, b in cell.layout.blocks.items()]
        shown: list[Any] = [
            self.summed,
            self.completes,
            cell.bias,
            self.projected,
            self.early,
            self.late,
            self.extras,
            self.spread,
            self.output,
            blocks,
        ]
        shown += [given, states, [getattr(skeleton, name) for name in self.extras]]
        shown += [step.states, step.output]
        self.identity = "\n".join([*operations.lines, *(str(operations.shown(s)) for s in shown)])
        return skeleton

    def _reads_sums_alone(self, cell: GatedCell, given: dict[str, Tensor], states: Any) -> bool:
        """Try an update that sees sums, and no part of them."""
        layout = cell.layout
        if len(self.early) != 1 or layout.x_sizes != layout.h_sizes or "all" not in given:
            return False
        named = {name: tensor for name, tensor in given.items() if name != "all"}
        part = Part(None, layout.x_sizes, named)
        try:
            cell.update(PreActivations.of_sums(given["all"], part, layout.h_sizes), states)
        except AttributeError:
            return False
        return True


class _Operations(TorchDispatchMode):
    """The operations on tensors, in words.

    Args:
        batch: the batch size, which is no other extent.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.lines: list[str] = []
        self._fused: set[int] = set()  # what other than broadcasting has been done with
        self._numbers: dict[int, int] = {}
        self._held: list[Tensor] = []  # so that no other tensor takes an id

    def shown(self, values: Any) -> Any:
        """The same, with each tensor as its number, shape and dtype."""
        return tree_map(lambda v: self._shown(v) if isinstance(v, Tensor) else v, values)

    def _shown(self, tensor: Tensor) -> str:
        if id(tensor) not in self._numbers:
            self._numbers[id(tensor)] = len(self._numbers)
            self._held.append(tensor)
        return f"%{self._numbers[id(tensor)]}{tuple(tensor.shape)}{tensor.dtype}"

    def spreads(self, tensor: Tensor) -> bool:
        """Whether a tensor (H,) was only ever broadcast to (B, H), operation by operation."""
        return tensor.dim() == 1 and id(tensor) not in self._fused

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves((args, kwargs)):
            wide = isinstance(result, Tensor) and result.shape[:-1] == (self.batch,)
            if not wide or torch.Tag.pointwise not in func.tags:
                self._fused.add(id(each))
        self.lines.append(f"{func} {self.shown((args, kwargs, result))}")
        return result


class _Watched(dict[str, Any]):
    """A module's tensors that remembers which were read."""

    def __init__(self, seen: dict[str, None], tensors: dict[str, Any]) -> None:
        super().__init__(tensors)
        self.seen = seen

    def __getitem__(self, name: str) -> Any:
        self.seen[name] = None
        return super().__getitem__(name)


def autocast_to(device: torch.device) -> torch.dtype | None:
    """What autocast makes products in on a device; None where it is off."""
    on = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None


def _in_half_precision(cell: GatedCell) -> bool:
    """Whether products are made in less than the precision of float32."""
    like = cell._like
    return like.dtype == torch.bfloat16 or autocast_to(like.device) is not None


def _as_autocast(weight: Tensor) -> Tensor:
    """A weight as autocast would have it in a product; itself where autocast is off."""
    dtype = autocast_to(weight.device)
    return weight.to(dtype) if dtype and weight.dtype == torch.float32 else weight
