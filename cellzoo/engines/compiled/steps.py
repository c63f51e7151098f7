"""A cell's steps as functions of tensors alone, over a whole sequence: what is compiled.

The forward makes the products with the states and hands them out, with the states before each
step. The backward recomputes an update's pointwise part only, through the update's own vjp, and
hands out each product's gradient, so that a weight's gradient is one product after the loop.

A late product, made inside an update, is p = v Uᵀ + e with e zero: its gradient is e's, and v is
handed out beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from cellzoo.cells.base import GatedCell, states_type
from cellzoo.cells.layout import Block, Layout
from cellzoo.cells.preactivations import Part, PreActivations

Tensors = Sequence[Tensor]
# One step: what is carried on, this step's inputs and what all steps share, to the new carried
# tensors and the step's outputs.
Step = Callable[[list[Tensor], list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]


def loop(
    step: Step, carry: Tensors, inputs: Tensors, shared: Tensors, backwards: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a step over time in Python; `programs.scan` is the same as one compiled loop.

    Args:
        step: see Step; it closes over no tensor.
        carry: what is carried from step to step.
        inputs: (T, …) each.
        shared: what every step reads.
        backwards: whether the last step comes first.

    Returns:
        What is carried in the end, and the outputs of all steps in time's order, (T, …) each.
    """
    now, found = list(carry), []
    each = list(zip(*(tensor.unbind(0) for tensor in inputs), strict=True))
    for values in reversed(each) if backwards else each:
        now, outputs = step(now, list(values), list(shared))
        found.append(outputs)
    if backwards:
        found.reverse()
    return now, [torch.stack(parts) for parts in zip(*found, strict=True)]


def grouped(tensors: Sequence[Any], *sizes: int) -> list[list[Any]]:
    """A flat list as lists of these sizes."""
    left = iter(tensors)
    return [[next(left) for _ in range(size)] for size in sizes]


class Steps:
    """A cell's steps, forward and backward.

    Args:
        cell: a prepared cell.
        projected: the names of its projected tensors.

    Attributes:
        early, late: the products of a step, by the names of their gates (or extra matrix).
        extras: the other parameters and buffers that the update may read.
        spread: those of them that act on each sequence of a batch by itself, unit by unit. Their
            gradients are summed over the batch after the loop, not at each step.
        summed: whether the update reads nothing of the fused projection and of the one early
            product but their sum; then the sum is kept for the backward pass, and they are not.
        identity: all that the steps do, in words: the update's operations on tensors of these
            widths, and where each tensor comes from.
    """

    def __init__(self, cell: GatedCell, projected: Sequence[str]) -> None:
        self.projected = tuple(projected)
        self.early = list(cell._early)
        self.late: list[tuple[str, ...]] = []
        self.extras: list[str] = []
        self.spread: list[bool] = []
        self.summed = False
        self.identity = ""
        self.cell = self._discover(cell)
        self.states = len(cell.layout.states)
        self.kept = [n for n, name in enumerate(projected) if not self.summed or name != "all"]

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
            _as_autocast(weight) if self._is_full(names) else weight
            for names, (weight, _) in zip([*self.early, *self.late], found, strict=True)
        ]
        biases = [bias for _, bias in found if bias is not None]
        return [weights, biases, [getattr(cell, name) for name in self.extras]]

    def operand(self, names: tuple[str, ...], states: Tensors) -> Tensor:
        """What an early product is applied to."""
        by_name = dict(zip(self.cell.layout.states, states, strict=True))
        parts = [by_name[name] for name in self._block(names).operand]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def product(self, names: tuple[str, ...], v: Tensor, weight: Tensor) -> Tensor:
        """The product of these gates (or of the extra matrix) with v (…, columns); no bias."""
        if self._is_full(names):
            return functional.linear(v.to(weight.dtype), weight).to(v.dtype)
        return self._block(names).product(v, weight, None, len(names))

    # -- the steps ---------------------------------------------------------------------------

    def forward(
        self,
        over_time: Any,
        projected: Tensors,
        states: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
    ) -> list[Tensor]:
        """All steps.

        Args:
            over_time: `loop`, or what does the same.
            projected: (T, B, …) each.
            states: the initial ones, (B, width) each.
            weights, biases: of the products.
            extras: the other parameters.

        Returns:
            The final states; then, (T, B, …) each, the states before each step, the outputs and
            the early products (`summed`: the pre-activations).
        """
        groups = len(weights), len(biases), len(extras)

        def step(states: Any, now: Any, shared: Any) -> Any:
            weights, biases, extras = grouped(shared, *groups)
            cell = self._sized(self._with_extras(extras), states)
            products = [
                self._turned_product(names, self.operand(names, states), weight)
                for names, weight in zip(self.early, weights, strict=False)
            ]
            if self.summed:
                products = [self._sum(now, products[0], biases)]
                now = [now[place] for place in self.kept]
            new, output, _ = self._update(cell, now, products, states, weights, biases, None)
            return new, [*states, output, *products]

        shared = [*map(self._turned, [*self.early, *self.late], weights), *biases, *extras]
        final, outputs = over_time(step, states, projected, shared)
        return [*final, *outputs]

    def backward(
        self,
        over_time: Any,
        projected: Tensors,
        before: Tensors,
        early: Tensors,
        of_output: Tensors,
        of_final: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
    ) -> list[Tensor]:
        """The vjp of all steps.

        Args:
            over_time, weights, biases, extras: as in `forward`.
            projected: those that are `kept`.
            before, early: what `forward` gave.
            of_output: the gradient of the outputs, (T, B, …), as a list of one.
            of_final: the gradients of the final states.

        Returns:
            The gradients of the initial states and of `extras`; then, (T, B, …) each, those of
            the projected tensors, of the early products and of the late ones, and what these were
            applied to.
        """
        late = weights[len(self.early) :]
        groups = len(weights), len(late), len(biases), len(extras)

        def step(carry: Any, now: Any, shared: Any) -> Any:
            weights, late, biases, extras = grouped(shared, *groups)
            of_new, sums = grouped(carry, self.states, len(extras))
            given, old, products, (of_output,) = grouped(
                now, len(projected), self.states, len(self.early), 1
            )
            turned = [*weights[: len(self.early)], *late]
            batch = old[0].shape[0]  # not len(), which would make the size a constant
            shifts = [
                old[0].new_zeros(batch, weights[len(self.early) + n].shape[0])
                for n in range(len(late))
            ]

            def update(given: Any, products: Any, old: Any, shifts: Any, extras: Any) -> Any:
                cell = self._sized(self._with_extras(extras), old)
                new, output, operands = self._update(
                    cell, given, products, old, turned, biases, shifts
                )
                return (*new, output), operands

            extras = [e.expand(batch, -1) if each else e for e, each in self._each(extras)]
            made: Any = torch.func.vjp(update, given, products, old, shifts, extras, has_aux=True)
            _, vjp, operands = made
            of_given, of_products, of_old, of_late, of_extras = vjp((*of_new, of_output))
            of_old = self._through_products(of_products, weights, old, of_old)
            sums = [total + part for total, part in zip(sums, of_extras, strict=True)]
            return [*of_old, *sums], [*of_given, *of_products, *of_late, *operands]

        turned = map(self._turned, self.late, late)
        batch = of_final[0].shape[0]
        shared = [*weights, *turned, *biases, *extras]
        sums = [e.new_zeros(batch, *e.shape) if s else torch.zeros_like(e)
                for e, s in self._each(extras)]  # fmt: skip
        carry = [*of_final, *sums]
        inputs = [*projected, *before, *early, *of_output]
        carry, outputs = over_time(step, carry, inputs, shared, backwards=True)
        first, sums = grouped(carry, self.states, len(extras))
        if self.summed:
            outputs.insert(self.projected.index("all"), outputs[len(self.kept)])
        return [*first, *(s.sum(0) if each else s for s, each in self._each(sums)), *outputs]

    def after_the_loop(
        self, weights: Tensors, biases: Tensors, operands: Tensors, gradients: Tensors
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The gradients of the weights and biases: one product each, over all steps."""
        of_weights, of_biases = [], []
        names = [*self.early, *self.late]
        for each, weight, v, gradient in zip(names, weights, operands, gradients, strict=True):
            v, gradient = v.flatten(0, 1), gradient.flatten(0, 1)
            if self._is_full(each):
                of_weights.append(gradient.to(weight.dtype).T @ v.to(weight.dtype))
            else:  # diagonal, heads
                with torch.enable_grad():
                    leaf = weight.detach().requires_grad_()
                    product = self.product(each, v, leaf)
                of_weights.append(torch.autograd.grad(product, leaf, gradient)[0])
            if biases and each[0] not in self.cell._matrices:
                of_biases.append(gradient.sum(0))
        return of_weights, of_biases

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

        `weights` are turned, those of the early products unread; `shifts` as the module says.
        """
        layout = cell.layout
        biased = self._biased([*self.early, *self.late], biases)
        names = [self.projected[place] for place in self.kept]
        named = dict(zip(names, projected, strict=True))
        x = Part(named.pop("all", None), layout.x_sizes, named)
        operands: list[Tensor] = []

        def multiply(gate: str | tuple[str, ...], v: Tensor) -> Any:
            number = len(operands)
            operands.append(v)
            place = len(self.early) + number
            fused = self._turned_product(self.late[number], v, weights[place])
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
        step = clone.normalise(clone.update(a, states_type(tuple(layout.states))(*states)))
        return list(step.states), step.output, operands

    def _sum(self, projected: Tensors, product: Tensor, biases: Tensors) -> Tensor:
        total = projected[self.projected.index("all")] + product
        return total + biases[0] if biases else total

    def projection_of(self, sums: Tensor, before: Tensors, weight: Tensor, biases: Any) -> Tensor:
        """The fused projection again, from kept sums: to rounding."""
        (names,) = self.early
        product = self.product(names, self.operand(names, before), weight)
        return sums - (product + biases[0] if biases else product)

    def _through_products(
        self, of_early: Tensors, weights: Tensors, old: Tensors, of_old: Tensors
    ) -> list[Tensor]:
        """The states' gradients, with what comes through the early products."""
        gradient = list(of_old)
        for names, weight, of_product in zip(self.early, weights, of_early, strict=False):

            def apply(*old: Tensor, names: Any = names, weight: Tensor = weight) -> Tensor:
                return self.product(names, self.operand(names, old), weight)

            made: Any = torch.func.vjp(apply, *old)
            gradient = [a + b for a, b in zip(gradient, made[1](of_product), strict=True)]
        return gradient

    def _each(self, extras: Tensors) -> Iterable[tuple[Tensor, bool]]:
        return zip(extras, self.spread, strict=True)

    def _is_full(self, names: tuple[str, ...]) -> bool:
        """Whether this product is one matrix."""
        return names[0] in self.cell._matrices or self._block(names).kind == "full"

    def _block(self, names: tuple[str, ...]) -> Block:
        layout = self.cell.layout
        return layout.blocks[layout.h_rows[names[0]][0]]

    def _turned(self, names: tuple[str, ...], weight: Tensor) -> Tensor:
        """A matrix transposed in memory: products with it are faster, by a third where small."""
        return weight.t().contiguous() if self._is_full(names) else weight

    def _turned_product(self, names: tuple[str, ...], v: Tensor, weight: Tensor) -> Tensor:
        if self._is_full(names):
            return (v.to(weight.dtype) @ weight).to(v.dtype)
        return self.product(names, v, weight)

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

    def _discover(self, cell: GatedCell) -> GatedCell:
        """Run one update on the meta device, to see what it reads, multiplies and does.

        Returns:
            The cell without its parameters' values: what flows through it is handed in.
        """

        def multiply(gate: str | tuple[str, ...], v: Tensor) -> Any:
            names = (gate,) if isinstance(gate, str) else tuple(gate)
            self.late.append(names)
            if names[0] in cell._matrices:
                return v.new_empty(len(v), getattr(cell, names[0]).shape[0])
            block = cell._gather(names, late=True)[0]
            parts = [v.new_empty(len(v), block.rows[name]) for name in names]
            return parts[0] if isinstance(gate, str) else parts

        def meta(tensor: Tensor | None) -> Any:
            return None if tensor is None else torch.empty_like(tensor, device="meta")

        seen: dict[str, None] = {}
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            like = cell._like
            widths = {extent for tensor in cell._parameters.values() if tensor is not None
                      for extent in tensor.shape}  # fmt: skip
            batch = next(n for n in range(2, 10_000) if n not in widths)
            x = torch.zeros(batch, cell.input_size, dtype=like.dtype, device=like.device)
            # On copies: a projection in training may count what it sees into its buffers.
            trial = cell.bind(
                cell._parameters,
                {name: b if b is None else b.clone() for name, b in cell._buffers.items()},
            )
            with torch.random.fork_rng(devices=[]):
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
            a = skeleton.pre_activations(given, states)
            skeleton.__dict__["product"] = multiply
            kind = states_type(tuple(cell.layout.states))
            self.summed = self._reads_sums_alone(skeleton, given, kind(*states))
            seen.clear()
            self.late.clear()
            with _Operations(batch) as operations:
                step = skeleton.normalise(skeleton.update(a, kind(*states)))
        del skeleton.__dict__["product"]
        self.extras = [name for name in seen if getattr(cell, name) is not None]
        self.spread = [operations.spreads(getattr(skeleton, name)) for name in self.extras]
        blocks = [(name, b.kind, b.operand, b.heads) for name, b in cell.layout.blocks.items()]
        shown: list[Any] = [
            self.summed,
            cell.bias,
            self.projected,
            self.early,
            self.late,
            self.extras,
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


def _as_autocast(weight: Tensor) -> Tensor:
    """A weight as autocast would have it in a product; itself where autocast is off."""
    kind = weight.device.type
    if weight.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return weight.to(torch.get_autocast_dtype(kind))
    return weight
