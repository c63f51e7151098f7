"""The rows of each sequence in a packed batch."""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor


class Lengths:
    """The lengths of a batch's sequences, the longest first.

    Rows lie step by step, as in torch's PackedSequence: each step has one row for each sequence
    that still runs. If all sequences have one length, rows are (T, B, …) flattened.

    Args:
        batch_sizes: the number of sequences at each step.

    Attributes:
        batch: the number of sequences.
        rows: the number of rows, over all steps.
        steps: the length of the longest sequence.
        equal: whether all sequences have one length.
    """

    def __init__(self, batch_sizes: Sequence[int]) -> None:
        self.batch_sizes = list(batch_sizes)
        self.batch = self.batch_sizes[0]
        self.rows = sum(self.batch_sizes)
        self.steps = len(self.batch_sizes)
        self.equal = self.batch == self.batch_sizes[-1]

    def final(self, states: Tensor) -> Tensor:
        """Return the last state of each sequence, (B, …).

        Args:
            states: (B + rows, …): the initial states, then the states after each step.
        """
        if self.equal:
            return states[self.rows :].clone()
        return states.index_select(0, self._last)

    def before(self, states: Tensor) -> Tensor:
        """Return the states before each step, (rows, …); argument as for `final`."""
        if self.equal:
            return states[: self.rows]
        return states.index_select(0, self._previous)

    def turned(self, rows: Tensor) -> Tensor:
        """Return the rows with each sequence reversed in time; twice returns the original."""
        if self.equal:
            return rows.view(self.steps, self.batch, *rows.shape[1:]).flip(0).flatten(0, 1)
        return rows.index_select(0, self._opposite)

    def bounds(self, parts: int) -> list[int]:
        """Return the first sequence of each part of the batch, and the batch's end.

        A part holds consecutive sequences. All parts have about the same number of rows.
        """
        if self.equal:
            return [part * self.batch // parts for part in range(parts + 1)]
        bounds = [0]
        for part in range(1, parts):
            aim = part * self.rows / parts
            possible = range(bounds[-1] + 1, self.batch - parts + part + 1)
            bounds.append(min(possible, key=lambda end: abs(self._ends[end - 1] - aim)))
        return [*bounds, self.batch]

    @cached_property
    def distinct_sizes(self) -> set[int]:
        """Return the distinct batch sizes."""
        return set(self.batch_sizes)

    @cached_property
    def _lengths(self) -> Tensor:
        return (torch.tensor(self.batch_sizes)[:, None] > torch.arange(self.batch)).sum(0)

    @cached_property
    def _ends(self) -> list[int]:
        """Return the number of rows of the first sequence, of the first two, and so on."""
        return list(accumulate(self._lengths.tolist()))

    @cached_property
    def _begins(self) -> Tensor:
        """Return the place of the first initial state, and of the first state after each step."""
        return torch.tensor([0, *accumulate([self.batch, *self.batch_sizes[:-1]])])

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Return the step and the sequence of each row."""
        step = torch.repeat_interleave(torch.tensor(self.batch_sizes))
        return step, torch.arange(self.rows) + self.batch - self._begins[1:][step]

    @cached_property
    def _last(self) -> Tensor:
        """Return the place of the last state of each sequence."""
        return self._begins[self._lengths] + torch.arange(self.batch)

    @cached_property
    def _previous(self) -> Tensor:
        """Return the place of the state before each row."""
        step, sequence = self._places
        return self._begins[step] + sequence

    @cached_property
    def _opposite(self) -> Tensor:
        """Return the place of each row in reversed time."""
        step, sequence = self._places
        return self._begins[self._lengths[sequence] - step] - self.batch + sequence
