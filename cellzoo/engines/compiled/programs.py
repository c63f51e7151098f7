"""Compiled steps run over a sequence: what a program reads and writes at each step.

What has values over time is (rows, …), as `Lengths` says: step by step, those of the sequences
that still run. Each state lies in one buffer (B + rows, width), the initial ones first: a step
reads the rows that the last one wrote, and writes those after them. The products with the states,
before a forward step and after a backward one, are the loop's: see `runtime.h`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cellzoo.cells.base import GatedCell
from cellzoo.engines.compiled.compiler import library_of
from cellzoo.engines.compiled.lengths import Lengths
from cellzoo.engines.compiled.library import Argument, Library, Product
from cellzoo.engines.compiled.products import linear, outer
from cellzoo.engines.compiled.steps import Shape, Steps, Tensors, autocast_to, grouped
from cellzoo.engines.errors import CompileError

COMPILE = True  # tests also run the steps as they are
ALONE = 512  # numbers of a state for which another thread is worth to be woken


class Programs:
    """The compiled forward and backward of a cell's steps.

    Args:
        steps: the functions.
    """

    COMPLETE = True  # whether a step does what `project` does after its product
    PACKED = True  # whether sequences may be of several lengths

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self._made: dict[str, Callable[[], Library]] = {}

    def begin(self, groups: Sequence[Tensors]) -> None:
        """Begin to compile both, side by side, for groups like these, in `backward`'s order."""
        if not COMPILE or "backward" in self._made:
            return
        none = Lengths([0])
        sequences, initial, projection, *others = groups
        biases = others[1]
        with torch.no_grad():
            sequences, initial = ([t[:0] for t in group] for group in (sequences, initial))
            projected = self._projected(sequences, projection, biases)
            output, states, early = self._forward(none, projected, initial, *others)
            given = [(projected if projection else sequences)[n] for n in self.steps.kept]
            of_output, of_final = torch.empty_like(output), [torch.empty_like(s) for s in initial]
            self._backward(none, given, states, early, of_output, of_final, *others)

    def forward(
        self,
        lengths: Lengths,
        sequences: Tensors,
        projection: Tensors,
        initial: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
    ) -> tuple[list[Tensor], Tensor, list[Tensor], list[Tensor], list[Tensor]]:
        """All steps.

        Args:
            lengths: of the batch's sequences.
            sequences: x, or what is projected, (rows, …) each.
            projection: weight_ih and bias_ih for x; else nothing.
            initial, weights, biases, extras: as `Steps.forward` takes them.

        Returns:
            The final states; the outputs, (rows, …); the states, (B + rows, …), the initial ones
            and those after each step; then, (rows, …) each, the early products (`summed`: the
            pre-activations), and what was projected and is kept.
        """
        steps = self.steps
        if not COMPILE or not lengths.batch:
            projected = [functional.linear(*sequences, *projection)] if projection else sequences
            found = steps.forward(lengths, projected, initial, weights, biases, extras)
            final, (output,), states, early = grouped(
                found, steps.states, 1, steps.states, len(steps.early)
            )
        else:
            projected = self._projected(sequences, projection, biases)
            output, states, early = self._forward(
                lengths, projected, initial, weights, biases, extras
            )
            final = [lengths.final(each) for each in states]
        kept = [projected[place] for place in steps.kept] if projection else []
        return final, output, states, early, kept

    def backward(
        self,
        lengths: Lengths,
        sequences: Tensors,
        initial: Tensors,
        projection: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
        projected: Tensors,
        states: Tensors,
        early: Tensors,
        of_output: Tensor,
        of_final: Tensors,
        of_x: bool,
        again: bool,
    ) -> list[Tensor | None]:
        """The gradients of the tensors of the first six groups.

        Args:
            lengths, sequences, initial, projection, weights, biases, extras: what `forward` took.
            projected, states, early: what it gave.
            of_output, of_final: the gradients of the outputs, (rows, …), and the final states.
            of_x: whether that of x is wanted.
            again: whether this will be called again with the same tensors. If not, what only
                `forward` made is overwritten.
        """
        steps = self.steps
        given = projected if projection else [sequences[place] for place in steps.kept]
        before = [lengths.before(each) for each in states]
        run = steps.backward
        if COMPILE and lengths.batch:
            run = self._backward
            if again:
                early = [tensor.clone() for tensor in early]
                given = [tensor.clone() for tensor in given] if projection else given
        of_initial, of_extras, of_given, of_products, operands = run(
            lengths, given, before, early, of_output, of_final, weights, biases, extras
        )
        if steps.summed:
            of_given.insert(steps.projected.index("all"), of_products[0])
        operands = [*(steps.operand(names, before) for names in steps.early), *operands]
        of_weights, of_biases = self._after_the_loop(weights, operands, of_products)
        of_sequences: list[Tensor | None] = [*of_given]
        of_projection: list[Tensor] = []
        if projection:
            (x,), (of_all,), weight = sequences, of_given, projection[0]
            of_projection = [*outer(of_all, x, weight.dtype)][: len(projection)]
            of_sequences = [linear(of_all, weight.t()) if of_x else None]
        return [*of_sequences, *of_initial, *of_projection, *of_weights,
                *of_biases[: len(biases)], *of_extras]  # fmt: skip

    def _projected(self, sequences: Tensors, projection: Tensors, biases: Tensors) -> list[Tensor]:
        """What is projected; if the loop adds to it, a copy, with the bias of its product."""
        steps = self.steps
        if not (steps.summed and steps.whole):
            return [linear(sequences[0], *projection)] if projection else [*sequences]
        if projection:
            weight, *bias = projection
            both = [*bias, *biases[:1]]  # the others are late products'
            summed = torch.stack(both).sum(0) if both else None
            return [linear(sequences[0], weight, summed)]
        place = steps.projected.index("all")
        copy = sequences[place] + biases[0] if biases else sequences[place].clone()
        return [copy if n == place else tensor for n, tensor in enumerate(sequences)]

    def _after_the_loop(
        self, weights: Tensors, operands: Tensors, gradients: Tensors
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The gradients of the weights and biases: one product each, over all steps."""
        steps = self.steps
        of_weights, of_biases = [], []
        names = [*steps.early, *steps.late]
        for each, weight, v, gradient in zip(names, weights, operands, gradients, strict=True):
            if steps.is_full(each):
                of_weight, of_bias = outer(gradient, v, weight.dtype)
            elif (heads := steps.heads(each)) > 1:
                of_bias = gradient.sum(0)
                parts = gradient.unflatten(-1, (len(each), heads, -1))  # (rows, gates, heads, …)
                each_v = v.unflatten(-1, (heads, -1)).unbind(1)
                products = [
                    outer(part.flatten(1), of, weight.dtype)[0].unflatten(0, (len(each), -1))
                    for part, of in zip(parts.unbind(2), each_v, strict=True)
                ]
                of_weight = torch.stack(products, 1).flatten(0, 2)
            else:  # diagonal
                of_bias = gradient.sum(0)
                with torch.enable_grad():
                    leaf = weight.detach().requires_grad_()
                    product = steps.product(each, v, leaf)
                (of_weight,) = torch.autograd.grad(product, leaf, gradient)
            of_weights.append(of_weight)
            if each[0] not in steps.cell._matrices:
                of_biases.append(of_bias)
        return of_weights, of_biases

    def _forward(
        self,
        lengths: Lengths,
        projected: Tensors,
        initial: Tensors,
        weights: Tensors,
        biases: Tensors,
        extras: Tensors,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """`Steps.forward`, compiled; pre-activations are added to what is projected.

        Returns:
            The outputs, the states and the early products.
        """
        steps, rows = self.steps, lengths.rows
        held = [s.new_empty(lengths.batch + rows, *s.shape[1:]) for s in initial]
        after = [sequence[lengths.batch :] for sequence in held]
        for sequence, state in zip(held, initial, strict=True):
            sequence[: lengths.batch] = state
        like = projected[0]
        made: list[Tensor] = []  # by the loop
        if steps.summed and steps.whole:
            made = [projected[steps.projected.index("all")]]
        elif steps.whole:
            whole = [w for n, w in zip(steps.early, weights, strict=False) if n in steps.whole]
            made = [like.new_empty(rows, len(weight)) for weight in whole]
        within = [
            like.new_empty(rows, self._rows(names))
            for names in steps.early
            if names not in steps.whole
        ]
        results = [Argument(sequence, "time", True) for sequence in after]
        if isinstance(steps.output, Shape):
            output = like.new_empty(rows, steps.output.width, dtype=steps.output.dtype)
            results.append(Argument(output, "time", True))
        else:
            output = after[steps.output]
        results += [Argument(product, "time", True) for product in within]
        groups = [
            [Argument(projected[place], "time", True) for place in steps.within],
            [Argument(sequence, "time", True, -1) for sequence in after],
            [Argument(product, "time", True) for product in made],
            *([Argument(tensor) for tensor in group] for group in (weights, biases, extras)),
        ]
        states, targets = len(groups[0]), len(groups[0]) + len(groups[1])
        products = []
        for number, place, columns in self._blocks(held):
            weight, target = weights[number], targets + steps.whole.index(steps.early[number])
            add = steps.summed or columns[0] > 0
            products.append(Product(states + place, target, add, weight, columns, False))
        self._run("forward", groups, results, products, lengths, self._parts(lengths))
        left, inner = iter(made), iter(within)
        early = [next(left) if names in steps.whole else next(inner) for names in steps.early]
        return output, held, early

    def _backward(
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
        """`Steps.backward`, compiled.

        The gradients are written over the early products, and over what was projected if that
        is a product which `forward` made.
        """
        steps = self.steps
        rows, parts = lengths.rows, self._parts(lengths)
        # Steps take turns. A sequence's last one reads either, as its length is even or odd.
        of_states = [torch.stack((gradient, gradient)) for gradient in of_final]
        sums = [
            extra.new_zeros(lengths.batch if spread else parts, *extra.shape)
            for extra, spread in zip(extras, steps.spread, strict=True)
        ]
        late = weights[len(steps.early) :]
        of_given = (
            [*projected] if steps.projection else [torch.empty_like(tensor) for tensor in projected]
        )
        of_late = [before[0].new_empty(rows, len(weight)) for weight in late]
        of_products = [*early, *of_late]
        operands = [
            before[0].new_empty(rows, each.width, dtype=each.dtype) for each in steps.operands
        ]
        carried = [Argument(turns, "turn", True) for turns in of_states]
        added = [
            Argument(total, "sum", spread) for total, spread in zip(sums, steps.spread, strict=True)
        ]
        groups = [
            *([Argument(tensor, "time", True) for tensor in group]
              for group in (projected, before, early, [of_output])),
            [argument._replace(first=1) for argument in carried],
            added,
            *([Argument(tensor) for tensor in group] for group in (weights, biases, extras)),
        ]  # fmt: skip
        results = [
            *carried,
            *added,
            *(Argument(t, "time", True) for t in (*of_given, *of_products, *operands)),
        ]
        first_product, first_state = len(projected) + len(before), sum(map(len, groups))
        products = []
        for number, place, columns in self._blocks(of_states):
            of, to = first_product + number, first_state + place
            products.append(Product(of, to, True, weights[number], columns, True))
        self._run("backward", groups, results, products, lengths, parts)
        of_initial, of_extras = [t[0] for t in of_states], [total.sum(0) for total in sums]
        return [of_initial, of_extras, of_given, of_products, operands]

    def _blocks(self, states: Tensors) -> Iterator[tuple[int, int, tuple[int, int]]]:
        """The products that the loop makes, state by state of their operands.

        Yields:
            The product's number among the early ones, the state's place, and which columns of the
            weight it meets: the first, and how many.
        """
        for names in self.steps.whole:
            first = 0
            for place in self.steps.operand_of(names):
                width = states[place].shape[-1]
                yield self.steps.early.index(names), place, (first, width)
                first += width

    def _run(
        self,
        name: str,
        groups: list[list[Argument]],
        results: list[Argument],
        products: list[Product],
        lengths: Lengths,
        parts: int,
    ) -> None:
        """Run all steps; of an empty batch, only begin to compile them.

        Args:
            results: what a step's results are written to; inputs may be among them.
        """
        arguments = [argument for group in groups for argument in group]
        sizes, targets = [len(group) for group in groups], []
        places = {(id(a.tensor), a.first): place for place, a in enumerate(arguments)}
        for result in results:
            targets.append(places.get((id(result.tensor), result.first), len(arguments)))
            arguments += [result] if targets[-1] == len(arguments) else []
        made = self._made.get(name)
        if made is None:
            step = self._forward_step if name == "forward" else self._backward_step
            identity = f"{name} {targets}\n{self.steps.identity}"
            made = self._made[name] = library_of(identity, step, sizes, arguments, targets)
        if not lengths.batch:
            return
        try:
            library = made()
        except CompileError:
            self._made.pop(name, None)  # another call may find a compiler
            raise
        library.run(arguments, products, lengths, parts, name == "backward")

    def _forward_step(self, *groups: list[Tensor]) -> list[Tensor]:
        """What a forward step writes: new states, output, products made within it."""
        steps = self.steps
        new, output, early = steps.forward_step(*groups)
        within = [e for e, n in zip(early, steps.early, strict=True) if n not in steps.whole]
        return [*new, *([output] if isinstance(steps.output, Shape) else []), *within]

    def _backward_step(self, *groups: list[Tensor]) -> list[Tensor]:
        """What a backward step writes, in the order of `Steps.backward_step`."""
        given, before, early, (of_output,), *others = groups
        found = self.steps.backward_step(given, before, early, of_output, *others)
        return [tensor for group in found for tensor in group]

    def _parts(self, lengths: Lengths) -> int:
        """In how many parts a batch runs, each by a thread of its own."""
        running = lengths.rows // lengths.steps  # in the mean
        worth = running * self.steps.cell.hidden_size // ALONE
        return max(1, min(torch.get_num_threads(), lengths.batch, worth))

    def _rows(self, names: tuple[str, ...]) -> int:
        """The width of an early product."""
        return sum(self.steps.cell.layout.h_sizes[name] for name in names)


_programs: dict[Any, Programs] = {}


def programs_of(cell: GatedCell, make: type[Programs] = Programs) -> Programs:
    """The programs of a prepared cell, kept: `Programs`, or another kind.

    Raises:
        CompileError: its update cannot be run without values.
    """
    options = tuple(map(repr, cell.options.items()))
    like = cell._like
    device = like.device
    key = (make, type(cell), cell.input_size, cell.hidden_size, cell.bias, options, cell.training,
           like.dtype, device, autocast_to(device))  # fmt: skip
    if key not in _programs:
        _programs[key] = make(Steps(cell, make.COMPLETE))
    return _programs[key]
