"""What a cell says of a state that enters linearly, element by element."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def recur(state: Any, decay: Tensor | None, drive: Tensor) -> Tensor:
    """A state's next value, decay ⊙ state + drive.

    A cell that declares `linear` moves all its states so, by `recur(s.<name>, …)`, and reads a
    state's old value, `s.<name>`, only after that. Decay and drive may depend on x and on the old
    values of states that were moved before; not on the state itself. Then its sequence is the sum
    of an associative product, which the engine `scan` makes for all steps at once.

    Args:
        state: s.<name>, (B, width).
        decay: (B, width) or (width,); None: 0, so that nothing of the state is left.
        drive: (B, width).
    """
    if not isinstance(state, Tensor):  # scan's: the state of the whole sequence
        return state.recur(decay, drive)
    return drive.to(state.dtype) if decay is None else decay * state + drive
