"""A cell's steps, several at a time, as functions of tensors alone: what is traced and compiled.

The forward chunk makes the products with the states and hands them out, with the states. The
backward chunk recomputes an update's pointwise part only, through the update's own vjp, and hands
out each product's gradient, so that a weight's gradient is one product after the whole loop.

A late product, made inside an update, is p = v Uᵀ + e with e zero: its gradient is e's, and v is
handed out beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cellzoo.cells.base import GatedCell, states_type
from cellzoo.cells.layout import Layout
from cellzoo.cells.preactivations import Part, PreActivations

Tensors = Sequence[Tensor]


class Chunk:
    """The functions of several steps of a cell, and what flows through them.

    Args:
        cell: a prepared cell.
        projected: the names of its projected tensors.

    Attributes:
        early, late: the products of a step, by the names of their gates (or extra matrix).
        extras: the other parameters and buffers that the update may read.
        own_output: whether the output is no state.
    """

    def __init__(self, cell: GatedCell, projected: Sequence[str]) -> None:
        self.projected = tuple(projected)
        self.early = list(cell._early)
        self.late: list[tuple[str, ...]] = []
        self.extras: list[str] = []
        self.own_output = False
        self.cell = self._discover(cell)

    # -- between a prepared cell and flat tensors --------------------------------------------

    def weights_of(self, cell: GatedCell) -> tuple[list[Tensor], list[Tensor]]:
        """The weights of a prepared cell's products, early ones first, and their biases."""
        found: list[Any] = [cell._early[names][1:] for names in self.early]
        for names in self.late:
            matrix = names[0] in cell._matrices
            found.append(
                (getattr(cell, names[0]), None) if matrix else cell._gather(names, late=True)[1:]
            )
        return [weight for weight, _ in found], [bias for _, bias in found if bias is not None]

    def extras_of(self, cell: GatedCell) -> list[Tensor]:
        """The values of `extras`."""
        return [getattr(cell, name) for name in self.extras]

    def restored(
        self, states: Tensors, weights: Tensors, biases: Tensors, extras: Tensors
    ) -> GatedCell:
        """A prepared cell that reads these tensors, for states of this size."""
        cell = self._sized(self._with_extras(extras), states)
        pairs = self._pairs(weights, biases)
        layout = cell.layout
        cell.__dict__["_late"] = {}
        for names, pair in zip([*self.early, *self.late], pairs, strict=True):
            if names[0] in cell._matrices:
                cell.__dict__["_parameters"][names[0]] = pair[0]
            else:
                block = layout.blocks[layout.h_rows[names[0]][0]]
                where = "_early" if names in self.early else "_late"
                cell.__dict__[where] = {**cell.__dict__[where], names: (block, *pair)}
        return cell

    def product(
        self, cell: GatedCell, names: tuple[str, ...], v: Tensor, weight: Tensor, bias: Any = None
    ) -> Tensor:
        """The product of these gates (or of the extra matrix) with v (…, columns)."""
        if names[0] in cell._matrices:
            return functional.linear(v, weight)
        block = cell.layout.blocks[cell.layout.h_rows[names[0]][0]]
        return block.product(v, weight, bias, len(names))

    def operand(self, names: tuple[str, ...], states: Tensors) -> Tensor:
        """What an early product is applied to."""
        layout = self.cell.layout
        by_name = dict(zip(layout.states, states, strict=True))
        block = layout.blocks[layout.h_rows[names[0]][0]]
        parts = [by_name[name] for name in block.operand]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    # -- the steps ---------------------------------------------------------------------------

    def forward(
        self,
        projected: Tensors,
        states: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """As many steps as `projected` holds.

        Args:
            projected: (steps, B, …) each.
            states: before the first step, (B, …) each.
            weights, biases: of the products.
            extras: the other parameters.

        Returns:
            The states after each step, the outputs (none where they are a state), and the early
            products; (steps, B, …) each.
        """
        cell = self._sized(self._with_extras(extras), states)
        pairs = self._pairs(weights, biases)
        early, late = pairs[: len(self.early)], pairs[len(self.early) :]
        steps = []
        for now in zip(*(tensor.unbind(0) for tensor in projected), strict=True):
            products = [
                self.product(cell, names, self.operand(names, states), *pair)
                for names, pair in zip(self.early, early, strict=True)
            ]
            states, output, _ = self._update(cell, now, products, states, late, None)
            steps.append((states, [output] if self.own_output else [], products))
        return _stacked(steps)

    def backward(
        self,
        projected: Tensors,
        early: Tensors,
        before: Tensors,
        states: Tensors,
        of_outputs: Tensor,
        of_states: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
    ) -> tuple[list[Tensor], ...]:
        """The vjp of the same steps.

        Args:
            projected, weights, biases, extras: as in `forward`.
            early, states: what `forward` gave.
            before: the states before the first step.
            of_outputs: the gradients of the outputs, (steps, B, …).
            of_states: the gradients of the states after the last step.

        Returns:
            The gradients of the projected tensors, of the early products, of the late ones, and
            what these were applied to, (steps, B, …) each; the gradients of `before`; those of
            `extras`.
        """
        cell = self._sized(self._with_extras(extras), before)
        pairs = self._pairs(weights, biases)
        late = pairs[len(self.early) :]
        length = len(of_outputs)
        gradient, sums, steps = list(of_states), [torch.zeros_like(e) for e in extras], []
        batch = before[0].shape[0]  # not len(), which would make the size a constant
        shifts = [before[0].new_zeros(batch, weight.shape[0]) for weight, _ in late]

        def update(now: Any, products: Any, old: Any, shifts: Any, extras: Any) -> Any:
            this = self._sized(self._with_extras(extras), old)
            new, output, operands = self._update(this, now, products, old, late, shifts)
            return (*new, output), operands

        for k in reversed(range(length)):
            old = [s[k - 1] for s in states] if k else list(before)
            inputs = [[t[k] for t in projected], [t[k] for t in early], old, shifts, list(extras)]
            made: Any = torch.func.vjp(update, *inputs, has_aux=True)
            _, vjp, operands = made
            of_now, of_early, of_old, of_late, of_extras = vjp((*gradient, of_outputs[k]))
            gradient = self._through_products(cell, of_early, weights, old, of_old)
            sums = [total + part for total, part in zip(sums, of_extras, strict=True)]
            steps.append((of_now, of_early, of_late, operands))
        return (*_stacked(steps[::-1]), gradient, sums)

    def _update(
        self,
        cell: GatedCell,
        projected: Tensors,
        early: Tensors,
        states: Tensors,
        late: Sequence[tuple[Tensor, Tensor | None]],
        shifts: Tensors | None,
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """One update: new states, output, and what each late product was applied to."""
        layout = cell.layout
        named = dict(zip(self.projected, projected, strict=True))
        x = Part(named.pop("all", None), layout.x_sizes, named)
        operands: list[Tensor] = []

        def multiply(gate: str | tuple[str, ...], v: Tensor) -> Any:
            number = len(operands)
            operands.append(v)
            fused = self.product(cell, self.late[number], v, *late[number])
            if shifts is not None:
                fused = fused + shifts[number]
            if isinstance(gate, str):
                return fused
            rows = layout.blocks[layout.h_rows[gate[0]][0]].rows
            return fused.split([rows[name] for name in gate], -1)

        clone = cell.bind(cell._parameters)
        clone.__dict__["product"] = multiply
        a = PreActivations(x, layout.joined(self.early, early))
        step = clone.normalise(clone.update(a, states_type(tuple(layout.states))(*states)))
        return list(step.states), step.output, operands

    def _through_products(
        self, cell: GatedCell, of_early: Tensors, weights: Tensors, old: Tensors, of_old: Tensors
    ) -> list[Tensor]:
        """The states' gradients, with what comes through the early products."""
        gradient = list(of_old)
        for names, weight, of_product in zip(self.early, weights, of_early, strict=False):

            def apply(*old: Tensor, names: Any = names, weight: Tensor = weight) -> Tensor:
                return self.product(cell, names, self.operand(names, old), weight)

            made: Any = torch.func.vjp(apply, *old)
            gradient = [a + b for a, b in zip(gradient, made[1](of_product), strict=True)]
        return gradient

    def _pairs(self, weights: Tensors, biases: Tensors) -> list[tuple[Tensor, Tensor | None]]:
        """Weights with their biases: extra matrices have none."""
        left = list(biases)
        names = [*self.early, *self.late]
        return [
            (weight, left.pop(0) if left and name[0] not in self.cell._matrices else None)
            for name, weight in zip(names, weights, strict=True)
        ]

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
        """Run one update on the meta device, to see what it reads and multiplies.

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
        with torch.no_grad():
            like = cell._like
            x = torch.zeros(2, cell.input_size, dtype=like.dtype, device=like.device)
            with torch.random.fork_rng(devices=[]):
                given = {k: v.to("meta") for k, v in cell.project_sequence(x, None).items()}
            states = tuple(s.to("meta") for s in cell.initial_state(2))
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
            seen.clear()
            skeleton.__dict__["product"] = multiply
            kind = states_type(tuple(cell.layout.states))
            step = skeleton.normalise(skeleton.update(a, kind(*states)))
        del skeleton.__dict__["product"]
        self.extras = [name for name in seen if getattr(cell, name) is not None]
        self.own_output = step.output is not step.states[0]
        return skeleton


class _Watched(dict[str, Any]):
    """A module's tensors that remembers which were read."""

    def __init__(self, seen: dict[str, None], tensors: dict[str, Any]) -> None:
        super().__init__(tensors)
        self.seen = seen

    def __getitem__(self, name: str) -> Any:
        self.seen[name] = None
        return super().__getitem__(name)


def _stacked(steps: Sequence[Any]) -> tuple[Any, ...]:
    """A list of steps, each a tuple of lists of tensors, as a tuple of lists of (steps, …)."""
    return tuple(
        [torch.stack(each) for each in zip(*part, strict=True)] for part in zip(*steps, strict=True)
    )
