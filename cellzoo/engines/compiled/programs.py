"""A sequence by a cell's steps: the products around the loop over time, which subclasses run.

Tensors with values over time are (rows, …), as in `Lengths`: step by step, one row for each
sequence that still runs. Each state lies in one buffer (B + rows, width), the initial states
first.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cellzoo.cells.prepared import PreparedCell
from cellzoo.engines.compiled.cpu.products import linear, outer
from cellzoo.engines.compiled.groups import Gradients, Inputs, Result, Saved, Tensors
from cellzoo.engines.compiled.lengths import Lengths
from cellzoo.engines.compiled.precision import autocast_to
from cellzoo.engines.compiled.steps import Steps

COMPILE = True  # tests also run the steps as plain functions


class Programs:
    """The forward and the backward pass of a cell's steps over a sequence.

    A subclass has `_forward` and `_backward`, which compute the same as `Steps.forward` and
    `Steps.backward`. The latter may overwrite the saved tensors.

    Args:
        steps: the steps.
    """

    _forward: Callable[..., Result]
    _backward: Callable[..., Gradients]

    COMPLETE = False  # whether a step computes what `project` computes after its product
    PACKED = False  # whether sequences may differ in length

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def begin(self, inputs: Inputs) -> None:
        """Begin to compile both passes for inputs like these, if they are to be compiled."""
        if COMPILE:
            self._begin(inputs)

    def _begin(self, inputs: Inputs) -> None:
        """Begin to compile; by default each pass is compiled when it first runs."""

    def forward(self, lengths: Lengths, inputs: Inputs) -> Result:
        """Run all steps.

        Args:
            lengths: of the batch's sequences.
            inputs: the inputs.

        Returns:
            The result, with the kept projections if the engine makes the projection.
        """
        steps, (sequences, initial, projection, *_) = self.steps, inputs
        if not COMPILE or not lengths.batch:
            projected = [functional.linear(*sequences, *projection)] if projection else sequences
            result = steps.forward(lengths, projected, initial, inputs.parameters)
        else:
            projected = self._projected(inputs)
            result = self._forward(lengths, projected, initial, inputs.parameters)
        if not projection:
            return result
        kept = [projected[place] for place in steps.kept]
        return result._replace(saved=result.saved._replace(projected=kept))

    def backward(
        self,
        lengths: Lengths,
        inputs: Inputs,
        saved: Saved,
        of_output: Tensor,
        of_final: Tensors,
        of_x: bool,
        repeats: bool,
    ) -> list[Tensor | None]:
        """Return the gradients of the inputs, one for each tensor.

        Args:
            lengths: of the batch's sequences.
            inputs: the inputs of `forward`.
            saved: the tensors that `forward` saved.
            of_output: the gradient of the outputs, (rows, …).
            of_final: the gradients of the final states, (B, width) each.
            of_x: whether to compute the gradient of x.
            repeats: whether this will be called again with the same tensors. If not, saved tensors
                are overwritten.
        """
        steps, projection, weights = self.steps, inputs.projection, inputs.weights
        kept = saved.projected if projection else [inputs.sequences[n] for n in steps.kept]
        saved = Saved(kept, [lengths.before(states) for states in saved.states], saved.early)
        run = steps.backward
        if COMPILE and lengths.batch:
            run = self._backward
            if repeats:
                early = [tensor.clone() for tensor in saved.early]
                kept = [tensor.clone() for tensor in kept] if projection else kept
                saved = saved._replace(projected=kept, early=early)
        of = run(lengths, saved, of_output, of_final, inputs.parameters)
        if steps.summed:
            of.projected.insert(steps.projected.index("all"), of.products[0])
        operands = [steps.operand(names, saved.states) for names in steps.early] + of.operands
        of_weights, of_biases = self._after_the_loop(weights, operands, of.products)
        of_sequences: list[Tensor | None] = [*of.projected]
        of_projection: list[Tensor] = []
        if projection:
            (x,), (of_all,), weight = inputs.sequences, of.projected, projection[0]
            of_projection = [*outer(of_all, x, weight.dtype)][: len(projection)]
            of_sequences = [linear(of_all, weight.t()) if of_x else None]
        return [*of_sequences, *of.states, *of_projection, *of_weights,
                *of_biases[: len(inputs.biases)], *of.extras]  # fmt: skip

    def _projected(self, inputs: Inputs) -> list[Tensor]:
        """Return the projected tensors for `_forward`."""
        sequences, projection = inputs.sequences, inputs.projection
        return [functional.linear(*sequences, *projection)] if projection else [*sequences]

    def _after_the_loop(
        self, weights: Tensors, operands: Tensors, gradients: Tensors
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the gradients of the weights and biases: one product each, over all steps."""
        steps = self.steps
        of_weights, of_biases = [], []
        products = zip([*steps.early, *steps.late], weights, operands, gradients, strict=True)
        for names, weight, v, gradient in products:
            if steps.is_full(names):
                of_weight, of_bias = outer(gradient, v, weight.dtype)
            elif (heads := steps.heads(names)) > 1:
                of_bias = gradient.sum(0)
                by_head = gradient.unflatten(-1, (len(names), heads, -1))  # (rows, gates, heads, …)
                of_heads = [
                    outer(part.flatten(1), of, weight.dtype)[0].unflatten(0, (len(names), -1))
                    for part, of in zip(
                        by_head.unbind(2), v.unflatten(-1, (heads, -1)).unbind(1), strict=True
                    )
                ]
                of_weight = torch.stack(of_heads, 1).flatten(0, 2)
            else:  # diagonal
                of_bias = gradient.sum(0)
                with torch.enable_grad():
                    leaf = weight.detach().requires_grad_()
                    product = steps.product(names, v, leaf)
                (of_weight,) = torch.autograd.grad(product, leaf, gradient)
            of_weights.append(of_weight)
            if names[0] not in steps.cell._matrices:
                of_biases.append(of_bias)
        return of_weights, of_biases


_programs: dict[Any, Programs] = {}


def programs_of(prepared: PreparedCell, kind: type[Programs]) -> Programs:
    """Return the programs of a prepared cell, made once for each class, options and sizes.

    Raises:
        CompileError: the update cannot run without values.
    """
    cell = prepared.cell
    options = tuple(map(repr, cell.options.items()))
    like = cell._like
    device = like.device
    key = (kind, type(cell), cell.input_size, cell.hidden_size, cell.bias, options, cell.training,
           like.dtype, device, autocast_to(device))  # fmt: skip
    if key not in _programs:
        _programs[key] = kind(Steps(prepared, kind.COMPLETE))
    return _programs[key]
