"""A cell against an independent reference: one step in NumPy float64, written from the paper.

    def my_cell(x, state, W, U, b, extra):
        ...
        return output, new_state

- `x`: (batch, input).
- `state`: a tuple of the states in the cell's declared order, (batch, width) each.
- `W`, `U`: gate name to matrix (rows, input), and to the gate's recurrent block: (rows, columns),
  (rows,) where it is diagonal, (rows, columns / heads) where it is one of heads.
- `b`: gate name to the pair (b_input, b_recurrent) of vectors (rows,); either may be zeros.
- `extra`: further values by name: extra parameters, buffers, options, `hidden_size`, and `dt`
  (batch, 1) where the cell takes the elapsed time.

It proves something if its author did not look at the cell's `update`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellzoo.nn.rnn import RNN
from cellzoo.testing.differences import first_difference, results
from cellzoo.testing.errors import ConformanceError, NotChecked
from cellzoo.testing.mistakes import likely_cause
from cellzoo.testing.subject import Subject, as_given, elapsed, normal, warm_state

Step = Callable[..., Any]
Arrays = dict[str, Any]

# Lengths, batches, whether there are biases, and the size of the weights.
CASES = ((1, 1, True, 0.5), (4, 2, True, 0.1), (5, 3, True, 1.0), (3, 2, False, 0.6),
         (2, 3, True, 3.0))  # fmt: skip
CLOSE = {"rtol": 1e-11, "atol": 1e-11}


@dataclass(frozen=True)
class Problem:
    """What a reference is given: a sequence, the states to start from, and the weights."""

    x: np.ndarray
    state: tuple[np.ndarray, ...]
    dt: np.ndarray | None
    W: Arrays
    U: Arrays
    b: Arrays
    extra: Arrays

    @classmethod
    def of(cls, rnn: RNN, x: Any, state: Any, dt: Any) -> Problem:
        """The weights of a one-layer RNN as references take them."""
        cell = rnn.cell()
        W, U, b = {}, {}, {}
        for gate, w in cell.gate_weights().items():
            if w.weight_ih is not None:
                W[gate] = _array(w.weight_ih)
            if w.weight_hh is not None:
                U[gate] = _array(w.weight_hh)
            rows = cell.width(cell.layout.gates[gate].width)
            b[gate] = np.stack([
                np.zeros(rows) if each is None else _array(each) for each in (w.bias_ih, w.bias_hh)
            ])  # fmt: skip
        extra = {**cell.options, "hidden_size": cell.hidden_size}
        for name in [*cell.extra, *cell._buffers]:
            if (tensor := getattr(cell, name)) is not None:
                extra[name] = _array(tensor)
        initial = tuple(_array(s[0]) for s in state)
        return cls(_array(x), initial, None if dt is None else _array(dt), W, U, b, extra)

    def run(self, step: Step) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """The reference over the sequence: outputs and final states."""
        state, outputs = self.state, []
        for t, x in enumerate(self.x):
            time = {} if self.dt is None else {"dt": self.dt[t][:, None]}
            output, state = step(x, state, self.W, self.U, self.b, self.extra | time)
            state = state if isinstance(state, tuple) else (state,)
            outputs.append(np.asarray(output))
        return np.stack(outputs), state


def equals_its_reference(subject: Subject) -> None:
    """The cell computes what an independent reference computes, in float64."""
    reference = subject.reference
    if reference is None:
        raise NotChecked("not checked against a paper: no reference was given")
    for size in sorted(subject.sizes, key=math.prod, reverse=True):  # the largest says most
        for seed, (steps, batch, bias, scale) in enumerate(CASES):
            rnn = subject.rnn(size, seed, scale, bias=bias)
            x, dt = normal(steps, batch, size[0], seed=seed), elapsed(rnn, steps, batch, seed)
            said = Comparison(rnn, reference, x, warm_state(rnn, batch, seed), dt).says()
            if said is not None:
                sizes = f"input_size {size[0]}, hidden_size {size[1]}"
                raise ConformanceError(f"{said} ({sizes})")


@dataclass(frozen=True)
class Comparison:
    """A cell and a reference over one sequence."""

    rnn: RNN
    reference: Step
    x: Tensor
    states: tuple[Tensor, ...]
    dt: Tensor | None

    def says(self) -> str | None:
        """Where they differ first and what that may come from; None where they do not."""
        said = self.differs()
        if said is None:
            return None
        first = replace(self, x=self.x[:1], dt=None if self.dt is None else self.dt[:1])
        cause = likely_cause(first)
        return f"{said} by the reference" + (f". {cause}" if cause else "")

    def differs(self, problem: Problem | None = None) -> str | None:
        """Where they differ first, for other weights of the reference's if need be."""
        return first_difference(self.cell(), self.expected(problem), rtol=1e-11, atol=1e-11)

    @torch.no_grad()
    def cell(self) -> dict[str, Tensor]:
        """What the cell gives, by name."""
        return results(self.rnn, *self.rnn(self.x, as_given(self.states), self.dt))

    def problem(self) -> Problem:
        """What the reference is given."""
        return Problem.of(self.rnn, self.x, self.states, self.dt)

    def expected(self, problem: Problem | None = None) -> dict[str, Tensor]:
        """What the reference gives, by name, for other weights than the cell's if given."""
        output, final = (problem or self.problem()).run(self.reference)
        if len(final) != len(self.states):
            raise ConformanceError(
                f"the reference gives {len(final)} states, the cell has {len(self.states)}"
            )
        state = as_given(tuple(torch.as_tensor(s)[None] for s in final))
        return results(self.rnn, torch.as_tensor(output), state)


def _array(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().numpy())
