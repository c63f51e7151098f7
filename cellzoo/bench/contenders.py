"""The measured layers: a cell on an engine, or another package's layer, at one shape."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cellzoo.nn.rnn import RNN

#: A module, and a function that applies it to its input and returns the outputs of all steps.
Layer = tuple[nn.Module, Callable[[], Tensor]]


class Candidate(NamedTuple):
    """A layer that can be built for any shape.

    Attributes:
        name: the name in the tables: "lstm", "torch.nn.LSTM".
        cell: the registered name of the cell.
        engine: the engine, or the package.
        build: a function of an input x (T, B, I) and a hidden size that returns the layer.
    """

    name: str
    cell: str
    engine: str
    build: Callable[[Tensor, int], Layer]


class Absent(NamedTuple):
    """A candidate or a package that is not measured.

    Attributes:
        name, cell, engine: as in `Candidate`.
        status: "declined" (by the engine or package), "failed" (an exception), "not installed".
        reason: the reason, on one line.
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
        candidate: the candidate that was built.
        module: the owner of the parameters.
        run: a function that returns the outputs of all steps.
        gradients: gradients of outputs, by shape; contenders share them to save memory.
    """

    candidate: Candidate
    module: nn.Module
    run: Callable[[], Tensor]
    gradients: dict[torch.Size, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._parameters = [p for p in self.module.parameters() if p.requires_grad]

    @property
    def parameters(self) -> int:
        """Return the number of trainable parameters."""
        return sum(parameter.numel() for parameter in self._parameters)

    @property
    def multiply_adds(self) -> int:
        """Return the multiply-adds of the matrix products of one time step of one sequence."""
        return multiply_adds(self.module)

    def call(self, kind: str) -> Callable[[], object]:
        """Set the mode of the module, and return the call to time: "forward" or "step"."""
        self.module.train(kind == "step")
        return self.train_step if kind == "step" else self.forward

    def forward(self) -> None:
        """Run a forward pass without gradients, as at inference."""
        with torch.no_grad():
            self.run()

    def train_step(self) -> None:
        """Run forward, and backward to the parameters; x takes no gradient.

        The backward pass starts from a fixed dense gradient of the outputs, as a layer above
        would supply. A loss would add time of its own. The gradient of a plain sum is a tensor of
        stride 0, which does not occur in training.
        """
        for parameter in self._parameters:
            parameter.grad = None
        output = self.run()
        if output.shape not in self.gradients:
            self.gradients[output.shape] = torch.randn_like(output)
        output.backward(self.gradients[output.shape])


def multiply_adds(module: nn.Module) -> int:
    """Return rows times columns of all matrices, each assumed to be applied once a time step.

    A matrix is a two-dimensional parameter whose name does not contain "bias": Keras keeps the
    two biases of a GRU in one parameter.
    """
    return sum(
        parameter.numel()
        for name, parameter in module.named_parameters()
        if parameter.dim() == 2 and parameter.requires_grad and "bias" not in name
    )


def registered(cell: str, engine: str) -> Candidate:
    """Return a registered cell on an engine; `build` raises EngineError if the engine declines."""
    return Candidate(cell, cell, engine, partial(_rnn, cell, engine))


def _rnn(cell: str, engine: str, x: Tensor, hidden_size: int) -> Layer:
    kind: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
    rnn = RNN(cell, x.shape[-1], hidden_size, engine=engine, **kind)
    rnn.explain(x)  # raises if the engine declines this input
    return rnn, lambda: rnn(x)[0]
