"""The recurrence of states that enter linearly, element by element."""

from typing import Any

from torch import Tensor


def recur(state: Any, decay: Tensor | None, drive: Tensor) -> Tensor:
    """Return a state's next value, decay ⊙ state + drive.

    A cell that declares `linear` computes all its new states by `recur(s.<name>, …)`, and reads
    an old value, `s.<name>`, only after that. Decay and drive may depend on x and on the old
    values of states that were computed before. They must not depend on the state itself. The
    sequence is then an associative product, which the engine `scan` computes for all steps at once.

    Args:
        state: s.<name>, (B, width).
        decay: (B, width) or (width,); None: 0, which forgets the old value.
        drive: (B, width).

    Returns:
        The new value, (B, width).

    Example:
        >>> import torch
        >>> recur(torch.tensor([[2.0]]), torch.tensor([0.5]), torch.tensor([[1.0]]))
        tensor([[2.]])
    """
    if not isinstance(state, Tensor):  # in `scan`, the state of the whole sequence
        return state.recur(decay, drive)
    return drive.to(state.dtype) if decay is None else decay * state + drive
