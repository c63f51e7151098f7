"""The groups of tensors that a cell's steps read and write."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

Tensors = Sequence[Tensor]


class Parameters(NamedTuple):
    """The parameters that every step reads.

    Attributes:
        weights: of the products, early ones first.
        biases: of the products that have one, in the same order.
        extras: the other parameters and buffers.
    """

    weights: Tensors
    biases: Tensors
    extras: Tensors


class Inputs(NamedTuple):
    """The inputs of a whole sequence.

    Attributes:
        sequences: x, or the projected tensors, (rows, …) each.
        initial: the initial states, (B, width) each.
        projection: weight_ih and bias_ih if the engine makes the projection; else empty.
        weights, biases, extras: see `Parameters`.
    """

    sequences: Tensors
    initial: Tensors
    projection: Tensors
    weights: Tensors
    biases: Tensors
    extras: Tensors

    @property
    def parameters(self) -> Parameters:
        """Return the parameters that every step reads."""
        return Parameters(*self[3:])


class Saved(NamedTuple):
    """The tensors that the forward pass saves for the backward pass.

    Attributes:
        projected: the projected tensors that the backward pass needs, (rows, …) each.
        states: (B + rows, …) each, the initial states and the states after each step; for the
            steps of the backward pass, the states before each step, (rows, …) each.
        early: the early products, (rows, …) each; with `summed`, the pre-activations.
    """

    projected: Tensors
    states: Tensors
    early: Tensors


class Result(NamedTuple):
    """The result of the forward pass.

    Attributes:
        final: the final states, (B, width) each.
        output: the outputs, (rows, …).
        saved: the tensors for the backward pass.
    """

    final: list[Tensor]
    output: Tensor
    saved: Saved


class Gradients(NamedTuple):
    """The gradients of a backward step, or of all steps.

    Attributes:
        states: of the states before the step, or of the initial states.
        extras: of the extras; for a step, the sums so far.
        projected: of the projected tensors that are kept, (rows, …) each.
        products: of the early products and the late ones, (rows, …) each.
        operands: not gradients but the operands of the late products, (rows, …) each.
    """

    states: list[Tensor]
    extras: list[Tensor]
    projected: list[Tensor]
    products: list[Tensor]
    operands: list[Tensor]


def grouped(tensors: Sequence[Any], *sizes: int) -> list[list[Any]]:
    """Split a flat list into lists of these sizes."""
    rest = iter(tensors)
    return [[next(rest) for _ in range(size)] for size in sizes]
