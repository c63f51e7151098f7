"""Compiled steps on the CPU: the arguments of the loop over time.

A step reads the rows of the states that the last step wrote, and writes the rows after them. The
loop makes the products with the states, before a forward step and after a backward step: see
`runtime.h`.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cellzoo.engines.compiled.cpu.compiler import library_of
from cellzoo.engines.compiled.cpu.library import Argument, Library, Product
from cellzoo.engines.compiled.cpu.products import linear
from cellzoo.engines.compiled.discovery import Shape
from cellzoo.engines.compiled.groups import Gradients, Inputs, Parameters, Result, Saved, Tensors
from cellzoo.engines.compiled.lengths import Lengths
from cellzoo.engines.compiled.programs import Programs
from cellzoo.engines.compiled.steps import Steps
from cellzoo.engines.errors import CompileError

ALONE = 512  # elements of a state that are worth another thread


class CPUPrograms(Programs):
    """The compiled forward and backward pass of a cell's steps."""

    COMPLETE = True
    PACKED = True

    def __init__(self, steps: Steps) -> None:
        super().__init__(steps)
        self._libraries: dict[str, Callable[[], Library]] = {}

    def _begin(self, inputs: Inputs) -> None:
        """Begin to compile both passes, side by side."""
        if "backward" in self._libraries:
            return
        none = Lengths([0])
        parameters = inputs.parameters
        with torch.no_grad():
            sequences, initial = ([t[:0] for t in group] for group in inputs[:2])
            inputs = inputs._replace(sequences=sequences, initial=initial)
            projected = self._projected(inputs)
            _, output, saved = self._forward(none, projected, initial, parameters)
            kept = [(projected if inputs.projection else sequences)[n] for n in self.steps.kept]
            of_final = [torch.empty_like(state) for state in initial]
            saved = saved._replace(projected=kept)
            self._backward(none, saved, torch.empty_like(output), of_final, parameters)

    def _projected(self, inputs: Inputs) -> list[Tensor]:
        """Return the projected tensors; a copy, with the product's bias, if the loop adds to it."""
        steps, sequences, projection = self.steps, inputs.sequences, inputs.projection
        if not (steps.summed and steps.whole):
            return [linear(sequences[0], *projection)] if projection else [*sequences]
        bias = inputs.biases[:1]  # the other biases belong to late products
        if projection:
            weight, *biases = projection
            biases += bias
            summed = torch.stack(biases).sum(0) if biases else None
            return [linear(sequences[0], weight, summed)]
        place = steps.projected.index("all")
        copy = sequences[place] + bias[0] if bias else sequences[place].clone()
        return [copy if n == place else tensor for n, tensor in enumerate(sequences)]

    def _forward(
        self, lengths: Lengths, projected: Tensors, initial: Tensors, parameters: Parameters
    ) -> Result:
        """Run `Steps.forward`, compiled; pre-activations are added to the projected tensor."""
        steps, rows = self.steps, lengths.rows
        held = [s.new_empty(lengths.batch + rows, *s.shape[1:]) for s in initial]
        after = [states[lengths.batch :] for states in held]
        for states, state in zip(held, initial, strict=True):
            states[: lengths.batch] = state
        like = projected[0]
        if steps.summed and steps.whole:
            of_loop = [projected[steps.projected.index("all")]]
        else:
            of_loop = [like.new_empty(rows, steps.rows(names)) for names in steps.whole]
        of_step = [
            like.new_empty(rows, steps.rows(names))
            for names in steps.early
            if names not in steps.whole
        ]
        results = [Argument(states, "time", True) for states in after]
        if isinstance(steps.output, Shape):
            output = like.new_empty(rows, steps.output.width, dtype=steps.output.dtype)
            results.append(Argument(output, "time", True))
        else:
            output = after[steps.output]
        results += [Argument(product, "time", True) for product in of_step]
        groups = [
            [Argument(projected[place], "time", True) for place in steps.within],
            [Argument(states, "time", True, -1) for states in after],
            [Argument(product, "time", True) for product in of_loop],
            *([Argument(tensor) for tensor in group] for group in parameters),
        ]
        first_state, first_product = len(groups[0]), len(groups[0]) + len(groups[1])
        products = []
        for number, place, columns in self._blocks(held):
            target = first_product + steps.whole.index(steps.early[number])
            add, weight = steps.summed or columns[0] > 0, parameters.weights[number]
            products.append(Product(first_state + place, target, add, weight, columns, False))
        self._run("forward", groups, results, products, lengths, self._parts(lengths))
        loop, step = iter(of_loop), iter(of_step)
        early = [next(loop if names in steps.whole else step) for names in steps.early]
        return Result([lengths.final(states) for states in held], output, Saved([], held, early))

    def _backward(
        self,
        lengths: Lengths,
        saved: Saved,
        of_output: Tensor,
        of_final: Tensors,
        parameters: Parameters,
    ) -> Gradients:
        """Run `Steps.backward`, compiled.

        The gradients overwrite the early products, and the projected tensors if `forward` made
        them.
        """
        steps, like = self.steps, saved.states[0]
        rows, parts = lengths.rows, self._parts(lengths)
        # Steps take turns. The last step of a sequence reads either turn, by parity of its length.
        of_states = [torch.stack((gradient, gradient)) for gradient in of_final]
        sums = [
            extra.new_zeros(lengths.batch if spread else parts, *extra.shape)
            for extra, spread in steps.with_spread(parameters.extras)
        ]
        of_projected = [
            tensor if steps.projection else torch.empty_like(tensor) for tensor in saved.projected
        ]
        late = parameters.weights[len(steps.early) :]
        of_products = [*saved.early, *(like.new_empty(rows, len(weight)) for weight in late)]
        operands = [like.new_empty(rows, v.width, dtype=v.dtype) for v in steps.operands]
        carried = [Argument(turns, "turn", True) for turns in of_states]
        added = [Argument(total, "sum", spread) for total, spread in steps.with_spread(sums)]
        groups = [
            *([Argument(tensor, "time", True) for tensor in group]
              for group in (*saved, [of_output])),
            [argument._replace(first=1) for argument in carried],
            added,
            *([Argument(tensor) for tensor in group] for group in parameters),
        ]  # fmt: skip
        over_time = (*of_projected, *of_products, *operands)
        results = [*carried, *added, *(Argument(tensor, "time", True) for tensor in over_time)]
        first_product = len(saved.projected) + len(saved.states)
        first_state = sum(map(len, groups))
        products = []
        for number, place, columns in self._blocks(of_states):
            of, to = first_product + number, first_state + place
            products.append(Product(of, to, True, parameters.weights[number], columns, True))
        self._run("backward", groups, results, products, lengths, parts)
        of_initial, of_extras = [t[0] for t in of_states], [total.sum(0) for total in sums]
        return Gradients(of_initial, of_extras, of_projected, of_products, operands)

    def _blocks(self, states: Tensors) -> Iterator[tuple[int, int, tuple[int, int]]]:
        """Iterate over the products that the loop makes, one for each state of an operand.

        Yields:
            The product's number among the early ones, the state's place, and the columns of the
            weight that meet the state: the first, and their number.
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
        """Run all steps; for an empty batch, only begin to compile them.

        Args:
            name: "forward" or "backward".
            groups: the arguments that a step reads.
            results: the arguments that a step writes; inputs may be among them.
            products: the products that the loop makes.
            lengths: of the batch's sequences.
            parts: the number of parts of the batch.
        """
        arguments = [argument for group in groups for argument in group]
        sizes, targets = [len(group) for group in groups], []
        places = {(id(a.tensor), a.first): place for place, a in enumerate(arguments)}
        for result in results:
            targets.append(places.get((id(result.tensor), result.first), len(arguments)))
            arguments += [result] if targets[-1] == len(arguments) else []
        library_when_ready = self._libraries.get(name)
        if library_when_ready is None:
            step = self._forward_step if name == "forward" else self._backward_step
            identity = f"{name} {targets}\n{self.steps.identity}"
            library_when_ready = library_of(identity, step, sizes, arguments, targets)
            self._libraries[name] = library_when_ready
        if not lengths.batch:
            return
        try:
            library = library_when_ready()
        except CompileError:
            self._libraries.pop(name, None)  # a later call may find a compiler
            raise
        library.run(arguments, products, lengths, parts, name == "backward")

    def _forward_step(self, *groups: list[Tensor]) -> list[Tensor]:
        """Return the tensors that a forward step writes: states, output, its own products."""
        steps, (projected, states, products, *parameters) = self.steps, groups
        new, output, early = steps.forward_step(
            projected, states, products, Parameters(*parameters)
        )
        within = [e for e, n in zip(early, steps.early, strict=True) if n not in steps.whole]
        return [*new, *([output] if isinstance(steps.output, Shape) else []), *within]

    def _backward_step(self, *groups: list[Tensor]) -> list[Tensor]:
        """Return the tensors that a backward step writes, in the order of `Gradients`."""
        projected, before, early, (of_output,), of_new, sums, *parameters = groups
        saved = Saved(projected, before, early)
        of = self.steps.backward_step(saved, of_output, of_new, sums, Parameters(*parameters))
        return [tensor for group in of for tensor in group]

    def _parts(self, lengths: Lengths) -> int:
        """Return the number of parts of a batch, each for a thread of its own."""
        running = lengths.rows // lengths.steps  # on average
        worth = running * self.steps.cell.hidden_size // ALONE
        return max(1, min(torch.get_num_threads(), lengths.batch, worth))
