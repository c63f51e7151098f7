"""Linear recurrences, parallel over time: what a step does is done for all steps at once.

A state that moves by s' = a ⊙ s + b is scanned: pairs of steps are composed, (a, b) then (a', b')
being (a' ⊙ a, a' ⊙ b + b'), which halves the sequence, until few are left (Blelloch 1990; Martin
& Cundy 2018, arXiv:1709.04057). Only sums and products are made, so that a decay may be 0, or its
absolute value above 1. The backward pass is the same scan from the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cellzoo.cells.base import GatedCell
from cellzoo.engines.errors import EngineError
from cellzoo.engines.packing import States, run_projected

# On the CPU, numbers of a step from which one step after the other is faster than pairs of steps.
WIDE = 2048


def declines(
    layer: Sequence[GatedCell], x: Tensor, batch_sizes: Tensor | None, dt: Tensor | None
) -> str | None:
    """Why this cannot be scanned; None if it can."""
    if not layer[0].linear:
        return f"the states of {layer[0].name} do not enter linearly"
    if torch._C._functorch.maybe_current_level() is not None:
        return "its backward pass has no rule for torch.func's transforms"
    if torch.compiler.is_compiling():
        return "torch.compile and torch.export trace the loop themselves"
    return None


def run(
    layer: Sequence[GatedCell],
    x: Tensor,
    states: Sequence[States],
    batch_sizes: Tensor | None = None,
    dt: Tensor | None = None,
    checkpoint_steps: int | None = None,
) -> tuple[Tensor, list[States]]:
    """Run one layer through time; arguments and result as `loop.run`.

    Raises:
        EngineError: a state is not moved by `recur`, though the cell declares that it is linear.
    """
    return run_projected(_run_dense, layer, x, states, batch_sizes, dt, checkpoint_steps)


def _run_dense(
    cell: GatedCell, names: list[str], reverse: bool, projected: list[Tensor], initial: States
) -> tuple[Tensor, States]:
    a = cell.pre_activations(dict(zip(names, projected, strict=True)), initial)
    s = _Sequences(cell, initial, len(projected[0]), reverse)
    every, output = cell.normalise(cell.update(a, s))
    for name, values in zip(cell.layout.states, every, strict=True):
        if values is not s.moved.get(name):
            raise EngineError(f"{cell.name} is linear: its state {name!r} must be what recur gives")
    return output, tuple(values[0 if reverse else -1] for values in every)


class _Sequences:
    """The states as `update` sees them: of the whole sequence instead of one step.

    Attributes:
        moved: the new values at every step, (T, B, width), of the states that `recur` has moved.
    """

    def __init__(self, cell: GatedCell, initial: States, steps: int, reverse: bool) -> None:
        self._initial = dict(zip(cell.layout.states, initial, strict=True))
        self._steps = steps
        self._reverse = reverse
        self.moved: dict[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in self._initial:
            raise AttributeError(f"no state {name!r}: the states are {', '.join(self._initial)}")
        if name not in self.moved:
            return _Unmoved(self, name)
        return _before(self._initial[name], self.moved[name], self._reverse)

    def recur(self, name: str, decay: Tensor | None, drive: Tensor) -> Tensor:
        """Move a state through the sequence."""
        initial = self._initial[name]
        shape = (self._steps, *initial.shape)
        values = drive.to(initial.dtype).expand(shape)
        if decay is not None:
            decay = decay.to(initial.dtype).expand(shape)
            values = _Scan.apply(decay, values, initial, self._reverse)
        self.moved[name] = values
        return values


class _Unmoved:
    """A state whose values are not known yet: for `recur` alone."""

    def __init__(self, states: _Sequences, name: str) -> None:
        self._states = states
        self._name = name

    def recur(self, decay: Tensor | None, drive: Tensor) -> Tensor:
        return self._states.recur(self._name, decay, drive)

    def __getattr__(self, name: str) -> Any:
        raise EngineError(f"state {self._name!r} is read before recur moves it")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = next(each._name for each in tree_leaves((args, kwargs)) if isinstance(each, cls))
        raise EngineError(f"state {name!r} is read before recur moves it")


class _Scan(torch.autograd.Function):
    """A state's values v[t] = decay[t] ⊙ v[t − 1] + drive[t], (T, B, width); v[−1] is `initial`.

    With `backwards`, v[t] follows v[t + 1], and v[T] is `initial`.
    """

    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor, initial: Tensor, backwards: bool) -> Tensor:
        values = _scan(decay, drive, initial, backwards)
        ctx.save_for_backward(decay, initial, values)
        ctx.backwards = backwards
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # what it does has a gradient itself
        decay, initial, values = ctx.saved_tensors
        none = torch.zeros_like(initial)
        after = _before(none, decay.conj(), not ctx.backwards)
        total = _Scan.apply(after, gradient, none, not ctx.backwards)
        of_decay = of_initial = None
        if ctx.needs_input_grad[0]:
            of_decay = total * _before(initial, values, ctx.backwards).conj()
        if ctx.needs_input_grad[2]:
            first = -1 if ctx.backwards else 0
            of_initial = total[first] * decay[first].conj()
        return of_decay, total, of_initial, None


def _before(initial: Tensor, values: Tensor, backwards: bool) -> Tensor:
    """What each step finds: the values of the step before it, `initial` for the first."""
    if backwards:
        return torch.cat([values[1:], initial.unsqueeze(0)])
    return torch.cat([initial.unsqueeze(0), values[:-1]])


def _scan(decay: Tensor, drive: Tensor, initial: Tensor, backwards: bool) -> Tensor:
    """See `_Scan`."""
    if drive.device.type == "cpu" and initial.numel() >= WIDE:
        return _one_by_one(decay, drive, initial, backwards)
    if backwards:
        return _by_pairs(decay.flip(0), drive.flip(0), initial).flip(0)
    return _by_pairs(decay, drive, initial)


def _by_pairs(decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
    """The values after every second step are a scan of half the length; then the others'."""
    values = torch.empty_like(drive, memory_format=torch.contiguous_format)
    values[0] = torch.addcmul(drive[0], decay[0], initial)
    steps = len(drive)
    if steps == 1:
        return values
    odd = slice(1, None, 2)
    pairs = (steps - 1) // 2  # pairs of steps, behind the first step
    first, second = decay[1 : 2 * pairs + 1 : 2], decay[2::2]
    if pairs:
        joined = torch.addcmul(drive[2::2], second, drive[1 : 2 * pairs + 1 : 2])
        values[2::2] = _by_pairs(first * second, joined, values[0])
    values[odd] = torch.addcmul(drive[odd], decay[odd], values[: steps - 1 : 2])
    return values


def _one_by_one(decay: Tensor, drive: Tensor, initial: Tensor, backwards: bool) -> Tensor:
    values = torch.empty_like(drive, memory_format=torch.contiguous_format)
    steps = list(zip(decay.unbind(0), drive.unbind(0), values.unbind(0), strict=True))
    now = initial
    for factor, term, new in reversed(steps) if backwards else steps:
        now = torch.addcmul(term, factor, now, out=new)
    return values
