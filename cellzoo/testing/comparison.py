"""Running a cell and its reference over one sequence, and comparing the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellzoo.nn.rnn import RNN
from cellzoo.testing.differences import first_difference, results
from cellzoo.testing.errors import ConformanceError
from cellzoo.testing.subject import as_given

ReferenceStep = Callable[..., Any]
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """The inputs of a reference as NumPy arrays.

    Attributes:
        x: the sequence, (T, B, I).
        state: the initial states in the declared order, (B, width) each.
        dt: the elapsed times, (T, B); None for a cell without elapsed time.
        W: each gate's input matrix, (rows, I).
        U: each gate's recurrent block, (rows, columns), (rows,) or (rows, columns / heads).
        b: each gate's two biases, (2, rows); zeros for a missing bias.
        extra: the extra parameters, buffers and options, and `hidden_size`.
    """

    x: np.ndarray
    state: tuple[np.ndarray, ...]
    dt: np.ndarray | None
    W: Arrays
    U: Arrays
    b: Arrays
    extra: Arrays

    @classmethod
    def of(cls, rnn: RNN, x: Any, state: Any, dt: Any) -> Problem:
        """Convert the weights of a one-layer RNN, a sequence and the initial states."""
        cell = rnn.cell()
        W, U, b = {}, {}, {}
        for gate, w in cell.gate_weights().items():
            if w.weight_ih is not None:
                W[gate] = _array(w.weight_ih)
            if w.weight_hh is not None:
                U[gate] = _array(w.weight_hh)
            zeros = np.zeros(cell.width(cell.layout.gates[gate].width))
            biases = (w.bias_ih, w.bias_hh)
            b[gate] = np.stack([zeros if bias is None else _array(bias) for bias in biases])
        extra = {**cell.options, "hidden_size": cell.hidden_size}
        for name in [*cell.extra, *cell._buffers]:
            if (tensor := getattr(cell, name)) is not None:
                extra[name] = _array(tensor)
        initial = tuple(_array(s[0]) for s in state)
        return cls(_array(x), initial, None if dt is None else _array(dt), W, U, b, extra)

    def run(self, step: ReferenceStep) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Run a reference over the sequence; return the outputs (T, B, width) and final states."""
        state, outputs = self.state, []
        for t, x in enumerate(self.x):
            time = {} if self.dt is None else {"dt": self.dt[t][:, None]}
            output, state = step(x, state, self.W, self.U, self.b, self.extra | time)
            state = state if isinstance(state, tuple) else (state,)
            outputs.append(np.asarray(output))
        return np.stack(outputs), state


@dataclass(frozen=True)
class ReferenceComparison:
    """A cell and its reference over one sequence.

    Attributes:
        rnn: one layer of the cell, in float64.
        reference: one step in NumPy.
        x: the sequence, (T, B, I).
        states: the initial states, (1, B, width) each.
        dt: the elapsed times, (T, B); None for a cell without elapsed time.
    """

    rnn: RNN
    reference: ReferenceStep
    x: Tensor
    states: tuple[Tensor, ...]
    dt: Tensor | None

    def difference(self, problem: Problem | None = None) -> str | None:
        """Describe the first difference; `problem` replaces the inputs of the reference."""
        return first_difference(self.cell(), self.expected(problem), rtol=1e-11, atol=1e-11)

    @torch.no_grad()
    def cell(self) -> dict[str, Tensor]:
        """Return the results of the cell by name."""
        return results(self.rnn, *self.rnn(self.x, as_given(self.states), self.dt))

    def problem(self) -> Problem:
        """Return the inputs of the reference."""
        return Problem.of(self.rnn, self.x, self.states, self.dt)

    def expected(self, problem: Problem | None = None) -> dict[str, Tensor]:
        """Return the results of the reference by name; `problem` replaces its inputs."""
        output, final = (problem or self.problem()).run(self.reference)
        if len(final) != len(self.states):
            raise ConformanceError(
                f"the reference returns {len(final)} states, the cell has {len(self.states)}"
            )
        state = as_given(tuple(torch.as_tensor(s)[None] for s in final))
        return results(self.rnn, torch.as_tensor(output), state)


def _array(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().numpy())
