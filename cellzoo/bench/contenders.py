"""What is measured: a cell by an engine, or another package's layer, at one shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cellzoo.nn.rnn import RNN

#: A module and what applies it to its input; gives the outputs of all steps.
Layer = tuple[nn.Module, Callable[[], Tensor]]


class Candidate(NamedTuple):
    """What may take part: it has a name, and is built for each shape anew.

    Attributes:
        name: as it is shown: "lstm", "torch.nn.LSTM".
        cell: the registered name of the cell that it is.
        engine: the engine, or the package.
        build: makes the layer for an input x (T, B, I) and a hidden size.
    """

    name: str
    cell: str
    engine: str
    build: Callable[[Tensor, int], Layer]


class Absent(NamedTuple):
    """What does not take part, and why.

    status: "declined" (the engine or package cannot), "failed" (it raised), or "not installed".
    """

    name: str
    cell: str
    engine: str
    status: str
    reason: str


@dataclass(eq=False)
class Contender:
    """A candidate's layer with its input, at one shape.

    Attributes:
        candidate: what it is of.
        module: owns the parameters.
        run: gives the outputs of all steps.
        gradients: of outputs, by their shape; contenders share them, as they are large.
    """

    candidate: Candidate
    module: nn.Module
    run: Callable[[], Tensor]
    gradients: dict[torch.Size, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._parameters = [p for p in self.module.parameters() if p.requires_grad]

    @property
    def parameters(self) -> int:
        """How many numbers are learned."""
        return sum(parameter.numel() for parameter in self._parameters)

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of the matrix products of one step of one sequence."""
        return multiply_adds(self.module)

    def call(self, kind: str) -> Callable[[], object]:
        """What is timed, "forward" or "step", with the module put in its mode."""
        self.module.train(kind == "step")
        return self.train_step if kind == "step" else self.forward

    def forward(self) -> None:
        """A forward pass as at inference: no gradient is wanted."""
        with torch.no_grad():
            self.run()

    def train_step(self) -> None:
        """Forward and backward to the parameters, x taking no gradient.

        It starts from a fixed dense gradient of the outputs, as a layer above would hand down:
        a loss would add its own time, and the gradient of a plain sum is a tensor of stride 0,
        which no training sees.
        """
        for parameter in self._parameters:
            parameter.grad = None
        output = self.run()
        if output.shape not in self.gradients:
            self.gradients[output.shape] = torch.randn_like(output)
        output.backward(self.gradients[output.shape])


def multiply_adds(module: nn.Module) -> int:
    """Rows times columns of all matrices, each taken to be applied once a step.

    By what is declared, alike for every package: parameters of two dimensions, but those that
    are called a bias (Keras keeps the GRU's two in one).
    """
    return sum(
        parameter.numel()
        for name, parameter in module.named_parameters()
        if parameter.dim() == 2 and parameter.requires_grad and "bias" not in name
    )


def ours(cell: str, engine: str) -> Candidate:
    """A registered cell by an engine; to build it raises EngineError where the engine cannot."""
    return Candidate(cell, cell, engine, partial(_rnn, cell, engine))


def _rnn(cell: str, engine: str, x: Tensor, hidden_size: int) -> Layer:
    kind: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
    rnn = RNN(cell, x.shape[-1], hidden_size, engine=engine, **kind)
    rnn.explain(x)  # raises where the engine declines this input
    return rnn, lambda: rnn(x)[0]
