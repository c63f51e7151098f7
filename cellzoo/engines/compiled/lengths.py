"""Which rows of a packed batch are whose."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor


class Lengths:
    """The lengths of a batch's sequences, the longest first.

    Rows lie step by step, as in torch's PackedSequence: at each step those of the sequences that
    still run. Where all sequences are of one length, rows are (T, B, …) flattened.

    Args:
        batch_sizes: how many sequences run at each step.

    Attributes:
        batch: how many sequences there are.
        rows: how many rows, over all steps.
        steps: the length of the longest sequence.
        equal: whether all sequences are of one length.
    """

    def __init__(self, batch_sizes: Sequence[int]) -> None:
        self.batch_sizes = list(batch_sizes)
        self.batch = self.batch_sizes[0]
        self.rows = sum(self.batch_sizes)
        self.steps = len(self.batch_sizes)
        self.equal = self.batch == self.batch_sizes[-1]

    def final(self, states: Tensor) -> Tensor:
        """Each sequence's last state.

        Args:
            states: (B + rows, …): the initial ones, then those after each step.
        """
        if self.equal:
            return states[self.rows :].clone()
        return states.index_select(0, self._last)

    def before(self, states: Tensor) -> Tensor:
        """The states before each step, (rows, …), of the same as `final`."""
        if self.equal:
            return states[: self.rows]
        return states.index_select(0, self._previous)

    def turned(self, rows: Tensor) -> Tensor:
        """The rows with each sequence in the opposite order of time; turned again, as they were."""
        if self.equal:
            return rows.view(self.steps, self.batch, *rows.shape[1:]).flip(0).flatten(0, 1)
        return rows.index_select(0, self._opposite)

    def bounds(self, parts: int) -> list[int]:
        """Where each part of the batch begins, and the batch's end.

        A part is of sequences that follow each other, and all have about as many rows.
        """
        if self.equal:
            return [part * self.batch // parts for part in range(parts + 1)]
        found = [0]
        for part in range(1, parts):
            aim = part * self.rows / parts
            possible = range(found[-1] + 1, self.batch - parts + part + 1)
            found.append(min(possible, key=lambda end: abs(self._ends[end - 1] - aim)))
        return [*found, self.batch]

    @cached_property
    def distinct_sizes(self) -> set[int]:
        """The numbers of sequences that run at some step."""
        return set(self.batch_sizes)

    @cached_property
    def _lengths(self) -> Tensor:
        return (torch.tensor(self.batch_sizes)[:, None] > torch.arange(self.batch)).sum(0)

    @cached_property
    def _ends(self) -> list[int]:
        """The rows of the first sequence, of the first two, and so on."""
        return list(accumulate(self._lengths.tolist()))

    @cached_property
    def _begins(self) -> Tensor:
        """Where the initial states, and those after each step, begin among all states."""
        return torch.tensor([0, *accumulate([self.batch, *self.batch_sizes[:-1]])])

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Each row's step and sequence."""
        step = torch.repeat_interleave(torch.tensor(self.batch_sizes))
        return step, torch.arange(self.rows) + self.batch - self._begins[1:][step]

    @cached_property
    def _last(self) -> Tensor:
        """Where each sequence's last state is."""
        return self._begins[self._lengths] + torch.arange(self.batch)

    @cached_property
    def _previous(self) -> Tensor:
        """Where the state before each row is."""
        step, sequence = self._places
        return self._begins[step] + sequence

    @cached_property
    def _opposite(self) -> Tensor:
        """Where each row is when its sequence is turned."""
        step, sequence = self._places
        return self._begins[self._lengths[sequence] - step] - self.batch + sequence
