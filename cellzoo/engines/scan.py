"""Linear recurrences, parallel over time: all steps are computed at once.

The recurrence s' = a ⊙ s + b is scanned. Two steps, (a, b) then (a', b'), compose to
(a' ⊙ a, a' ⊙ b + b'), which halves the sequence, again and again (Blelloch 1990; Martin & Cundy
2018, arXiv:1709.04057). The scan uses only sums and products. So a decay may be 0, or its absolute
value above 1. The backward pass is the same scan from the end.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cellzoo.cells.prepared import PreparedCell, run_update
from cellzoo.engines.errors import EngineError
from cellzoo.engines.packing import Layer, States, run_projected
from cellzoo.engines.private import is_transformed

# On the CPU, the elements of a step from which step by step is faster than pairs of steps.
WIDE = 2048


def declines(layer: Layer) -> str | None:
    """Return the reason why this cannot be scanned; None if it can."""
    if not layer.cells[0].linear:
        return f"the states of {layer.cells[0].name} do not enter linearly"
    if is_transformed():
        return "its backward pass has no rule for torch.func's transforms"
    if torch.compiler.is_compiling():
        return "torch.compile and torch.export trace the loop themselves"
    return None


def run(
    layer: Layer, states: Sequence[States], checkpoint_steps: int | None = None
) -> tuple[Tensor, list[States]]:
    """Run one layer over time; arguments and result as for `loop.run`.

    Raises:
        EngineError: a state does not come from `recur`, although the cell declares `linear`.
    """
    return run_projected(_run_dense, layer, states, checkpoint_steps)


def _run_dense(
    prepared: PreparedCell,
    names: list[str],
    reverse: bool,
    projected: list[Tensor],
    initial: States,
) -> tuple[Tensor, States]:
    cell = prepared.cell
    a = prepared.pre_activations(dict(zip(names, projected, strict=True)), initial)
    s = _Sequences(list(cell.layout.states), initial, len(projected[0]), reverse)
    states, output = run_update(cell, a, s)
    for name, values in zip(cell.layout.states, states, strict=True):
        if values is not s.computed.get(name):
            raise EngineError(f"{cell.name} is linear: recur must return its state {name!r}")
    return output, tuple(values[0 if reverse else -1] for values in states)


class _Sequences:
    """The states that `update` reads, for the whole sequence instead of one step.

    Attributes:
        computed: the new values at every step, (T, B, width), of the states that `recur` returned.
    """

    def __init__(self, names: list[str], initial: States, steps: int, reverse: bool) -> None:
        self._initial = dict(zip(names, initial, strict=True))
        self._steps = steps
        self._reverse = reverse
        self.computed: dict[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in self._initial:
            raise AttributeError(f"no state {name!r}: the states are {', '.join(self._initial)}")
        if name not in self.computed:
            return _Uncomputed(self, name)
        return _before(self._initial[name], self.computed[name], self._reverse)

    def recur(self, name: str, decay: Tensor | None, drive: Tensor) -> Tensor:
        """Compute a state at every step."""
        initial = self._initial[name]
        shape = (self._steps, *initial.shape)
        values = drive.to(initial.dtype).expand(shape)
        if decay is not None:
            decay = decay.to(initial.dtype).expand(shape)
            values = _Scan.apply(decay, values, initial, self._reverse)
        self.computed[name] = values
        return values


class _Uncomputed:
    """A state that `recur` has not computed yet: only `recur` may take it."""

    def __init__(self, states: _Sequences, name: str) -> None:
        self._states = states
        self._name = name

    def recur(self, decay: Tensor | None, drive: Tensor) -> Tensor:
        return self._states.recur(self._name, decay, drive)

    def __getattr__(self, name: str) -> Any:
        raise EngineError(f"state {self._name!r} is read before recur computes it")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = next(leaf._name for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, cls))
        raise EngineError(f"state {name!r} is read before recur computes it")


class _Scan(torch.autograd.Function):
    """The values of a state, v[t] = decay[t] ⊙ v[t − 1] + drive[t], (T, B, width).

    v[−1] is `initial`. With `backwards`, v[t] depends on v[t + 1], and v[T] is `initial`.
    """

    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor, initial: Tensor, backwards: bool) -> Tensor:
        values = _scan(decay, drive, initial, backwards)
        ctx.save_for_backward(decay, initial, values)
        ctx.backwards = backwards
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # itself differentiable
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
    """Return the values before each step: `initial` for the first."""
    if backwards:
        return torch.cat([values[1:], initial.unsqueeze(0)])
    return torch.cat([initial.unsqueeze(0), values[:-1]])


def _scan(decay: Tensor, drive: Tensor, initial: Tensor, backwards: bool) -> Tensor:
    """Compute the values of `_Scan`."""
    if drive.device.type == "cpu" and initial.numel() >= WIDE:
        return _one_by_one(decay, drive, initial, backwards)
    if backwards:
        return _by_pairs(decay.flip(0), drive.flip(0), initial).flip(0)
    return _by_pairs(decay, drive, initial)


def _by_pairs(decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
    """Compute every second step by a scan of half the length, then the other steps."""
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
