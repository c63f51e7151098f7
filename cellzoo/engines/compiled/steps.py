"""A cell's steps as functions of tensors only, for compilation.

The products with the states are made beside the steps. A forward step is the pointwise part of an
update. A backward step recomputes it, by the vjp of the update, and returns the gradient of each
product, so that the gradient of a weight is one product after the loop.

A late product, made inside an update, is p = v Uᵀ + e with e zero. The gradient of p is the
gradient of e, and v is returned beside it.
"""

from typing import Any

import torch
from torch import Tensor

from cellzoo.cells.layout import Layout
from cellzoo.cells.preactivations import Part, PreActivations, states_type
from cellzoo.cells.prepared import run_update
from cellzoo.cells.protocol import Cell
from cellzoo.engines.compiled.discovery import Discovery
from cellzoo.engines.compiled.formulas import Formulas
from cellzoo.engines.compiled.groups import Gradients, Parameters, Result, Saved, Tensors, grouped
from cellzoo.engines.compiled.lengths import Lengths
from cellzoo.engines.compiled.projection import completed
from cellzoo.engines.packing import RunningStates


class Steps(Discovery):
    """The steps of a cell, forward and backward."""

    # -- all steps, one by one ---------------------------------------------------------------

    def forward(
        self, lengths: Lengths, projected: Tensors, initial: Tensors, parameters: Parameters
    ) -> Result:
        """Run all steps.

        Args:
            lengths: of the batch's sequences.
            projected: the projected tensors, (rows, …) each.
            initial: the initial states, (B, width) each.
            parameters: the parameters.
        """
        running, results = RunningStates(tuple(initial), reverse=False), []
        rows = (tensor.split(lengths.batch_sizes) for tensor in projected)
        for size, *now in zip(lengths.batch_sizes, *rows, strict=True):
            states = running.resize(size)
            products = self.whole_products(now, states, parameters)
            read = [now[place] for place in self.within]
            new, output, early = self.forward_step(read, states, products, parameters)
            results.append([output, *new, *early])
            running.now = tuple(new)
        over_time = [torch.cat(parts) for parts in zip(*results, strict=True)]
        (output,), after, early = grouped(over_time, 1, self.states, len(self.early))
        held = [torch.cat(parts) for parts in zip(initial, after, strict=True)]
        return Result([*running.final()], output, Saved([], held, early))

    def backward(
        self, lengths: Lengths, saved: Saved, gradients: Tensors, parameters: Parameters
    ) -> Gradients:
        """Compute the vjp of all steps.

        Args:
            lengths: of the batch's sequences.
            saved: the kept projections, the states before each step and the early products.
            gradients: of the outputs, (rows, …), then of the final states, (B, width) each.
            parameters: the parameters.
        """
        running, results = RunningStates(tuple(gradients[1:]), reverse=True), []
        totals = [torch.zeros_like(extra) for extra in parameters.extras]
        groups = *saved, gradients[:1]
        sizes = [len(group) for group in groups]
        rows = [tensor.split(lengths.batch_sizes) for group in groups for tensor in group]
        for size, *now in reversed(list(zip(lengths.batch_sizes, *rows, strict=True))):
            *saved_now, of_output = grouped(now, *sizes)
            sums = [
                total.new_zeros(size, *total.shape) if spread else total
                for total, spread in self.with_spread(totals)
            ]
            step = self.backward_step(
                Saved(*saved_now), [*of_output, *running.resize(size)], sums, parameters
            )
            totals = [
                total + of.sum(0) if spread else of
                for (total, spread), of in zip(self.with_spread(totals), step.extras, strict=True)
            ]
            running.now = tuple(self.through_whole(step.products, parameters, step.states))
            results.append([tensor for group in step[2:] for tensor in group])
        results.reverse()
        over_time = [torch.cat(parts) for parts in zip(*results, strict=True)]
        late = len(self.late)
        sizes = [len(saved.projected), len(self.early) + late, late]
        return Gradients([*running.now], totals, *grouped(over_time, *sizes))

    # -- one step ----------------------------------------------------------------------------

    def whole_products(
        self, projected: Tensors, states: Tensors, parameters: Parameters
    ) -> list[Tensor]:
        """Return the products of the `whole` weights; with `summed`, the pre-activations.

        Args:
            projected: all projected tensors of a step.
            states: the states before the step.
            parameters: the parameters.
        """
        products = [
            self.product(names, self.operand(names, states), weight)
            for names, weight in zip(self.early, parameters.weights, strict=False)
            if names in self.whole
        ]
        if self.summed and products:
            return [self._sum(projected, products[0], parameters.biases)]
        return products

    def forward_step(
        self, projected: Tensors, states: Tensors, products: Tensors, parameters: Parameters
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Run one step.

        Args:
            projected: the tensors `within` a step.
            states: the states before the step.
            products: the `whole_products`.
            parameters: the parameters.

        Returns:
            The new states, the output, and the early products (with `summed`, the
            pre-activations).
        """
        cell = self._sized(states, parameters.extras)
        rest = iter(products)
        early = [
            next(rest)
            if names in self.whole
            else self.product(names, self.operand(names, states), weight)
            for names, weight in zip(self.early, parameters.weights, strict=False)
        ]
        if self.summed and not self.whole:
            early = [self._sum(projected, early[0], parameters.biases)]
            projected = [projected[place] for place in self.kept]
        new, output, _ = self._update(cell, Saved(projected, states, early), parameters, None)
        return new, output, early

    def backward_step(
        self, saved: Saved, gradients: Tensors, sums: Tensors, parameters: Parameters
    ) -> Gradients:
        """Compute the vjp of one step, without the part through the `whole` products.

        Args:
            saved: the kept projections, the states before the step and the early products.
            gradients: of the output, then of the new states.
            sums: the gradients of the extras, summed over the steps so far.
            parameters: the parameters.
        """
        weights, states = parameters.weights, saved.states
        batch = states[0].shape[0]  # not len(), which would make the size a constant
        shifts = [
            states[0].new_zeros(batch, weight.shape[0]) for weight in weights[len(self.early) :]
        ]

        def update(now: Any, shifts: Any, extras: Any) -> Any:
            cell = self._sized(now.states, extras)
            new, output, operands = self._update(cell, now, parameters, shifts)
            return (*new, output), operands

        extras = [e.expand(batch, -1) if s else e for e, s in self.with_spread(parameters.extras)]
        results: Any = torch.func.vjp(update, saved, shifts, extras, has_aux=True)
        _, vjp, operands = results
        of_saved, of_late, of_extras = vjp((*gradients[1:], gradients[0]))
        of_old = self._through_products(of_saved, weights, states)
        sums = [total + part for total, part in zip(sums, of_extras, strict=True)]
        return Gradients(of_old, sums, of_saved.projected, [*of_saved.early, *of_late], operands)

    def through_whole(
        self, of_products: Tensors, parameters: Parameters, of_states: Tensors
    ) -> list[Tensor]:
        """Return the gradients of the states, with the part through the `whole` products."""
        gradients = list(of_states)
        for names, weight, of in zip(self.early, parameters.weights, of_products, strict=False):
            if names in self.whole:
                whole = (of.to(weight.dtype) @ weight).to(of.dtype)
                places = self.operand_of(names)
                widths = [gradients[place].shape[-1] for place in places]
                for place, part in zip(places, whole.split(widths, -1), strict=True):
                    gradients[place] = gradients[place] + part
        return gradients

    # -- parts -------------------------------------------------------------------------------

    def _update(
        self, cell: Cell, saved: Saved, parameters: Parameters, shifts: Tensors | None
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Run one update and return the new states, the output and the late products' operands.

        The weights of early products are not read. `shifts` are the e of the module's text.
        """
        layout = cell.layout
        biases = self._biases(parameters.biases)
        if self.completes:
            with Formulas():
                projected = completed(cell, saved.projected[0])
        else:
            names = [self.projected[place] for place in self.kept]
            projected = dict(zip(names, saved.projected, strict=True))
        x = Part.of_x(projected, layout.x_sizes)
        operands: list[Tensor] = []

        def multiply(gate: str | tuple[str, ...], v: Tensor) -> Any:
            number = len(operands)
            operands.append(v)
            place = len(self.early) + number
            fused = self.product(self.late[number], v, parameters.weights[place])
            if (bias := biases[place]) is not None:
                fused = fused + bias
            if shifts is not None:
                fused = fused + shifts[number]
            if isinstance(gate, str):
                return fused
            rows = layout.blocks[layout.h_rows[gate[0]][0]].rows
            return fused.split([rows[name] for name in gate], -1)

        if self.summed:
            a = PreActivations.of_sums(saved.early[0], x, layout.h_sizes)
        else:
            products = [
                product if bias is None else product + bias
                for product, bias in zip(saved.early, biases, strict=False)
            ]
            a = PreActivations(x, layout.joined(self.early, products))
        cell = cell.bind(cell._parameters, product=multiply)
        with Formulas():
            step = run_update(cell, a, states_type(tuple(layout.states))(*saved.states))
        return list(step.states), step.output, operands

    def _sum(self, projected: Tensors, product: Tensor, biases: Tensors) -> Tensor:
        total = projected[self.projected.index("all")] + product
        return total + biases[0] if biases else total

    def _through_products(self, of_saved: Saved, weights: Tensors, states: Tensors) -> list[Tensor]:
        """Return the gradients of the states, with the part through a step's own products."""
        gradients = list(of_saved.states)
        for names, weight, of_product in zip(self.early, weights, of_saved.early, strict=False):
            if names in self.whole:
                continue

            def apply(*states: Tensor, names: Any = names, weight: Tensor = weight) -> Tensor:
                return self.product(names, self.operand(names, states), weight)

            results: Any = torch.func.vjp(apply, *states)
            gradients = [a + b for a, b in zip(gradients, results[1](of_product), strict=True)]
        return gradients

    def _biases(self, biases: Tensors) -> list[Tensor | None]:
        """Return the bias of each product; extra matrices have none."""
        rest, matrices = iter(biases), self.cell._matrices
        products = [*self.early, *self.late]
        return [None if names[0] in matrices else next(rest, None) for names in products]

    def _sized(self, states: Tensors, extras: Tensors) -> Cell:
        """Return the cell with these extras and this hidden size, which may be symbolic."""
        named, cell = dict(zip(self.extras, extras, strict=True)), self.cell
        tensors = [
            {name: named.get(name, tensor) for name, tensor in own.items()}
            for own in (cell._parameters, cell._buffers)
        ]
        for state, tensor in zip(cell.layout.states.values(), states, strict=True):
            if state.width == "hidden_size":
                cell = cell.bind(*tensors, hidden_size=tensor.shape[-1])
                return cell.bind(*tensors, layout=Layout.of(cell))
        return cell.bind(*tensors)
