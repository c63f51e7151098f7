"""The states of a packed batch, which shrinks as sequences end."""

from __future__ import annotations

import torch
from torch import Tensor

States = tuple[Tensor, ...]


class RunningStates:
    """The states of the sequences that are running.

    Forwards, sequences end and are left, so that nothing is computed for them. Backwards, none
    runs at first, and sequences begin, each from its initial state.

    Args:
        initial: the initial states of all sequences, longest first, (B, width) each.
        reverse: whether the packed batch is read backwards.
    """

    def __init__(self, initial: States, reverse: bool) -> None:
        self.initial = initial
        self.now = tuple(s[:0] for s in initial) if reverse else initial
        self._ended: list[States] = []

    def resize(self, size: int) -> States:
        """The states of the `size` sequences that run now."""
        before = len(self.now[0])
        if size < before:
            self._ended.append(tuple(s[size:] for s in self.now))
            self.now = tuple(s[:size] for s in self.now)
        elif size > before:
            begin = (s[before:size] for s in self.initial)
            self.now = tuple(torch.cat(parts) for parts in zip(self.now, begin, strict=True))
        return self.now

    def final(self) -> States:
        """Each sequence's state after its last step, longest first."""
        if not self._ended:
            return self.now
        parts = zip(self.now, *reversed(self._ended), strict=True)
        return tuple(torch.cat(part) for part in parts)
