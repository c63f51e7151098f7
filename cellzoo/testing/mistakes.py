"""The likely cause of a difference from a reference: simple mistakes, tried in turn."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellzoo.nn.rnn import RNN
from cellzoo.testing.comparison import Problem, ReferenceComparison
from cellzoo.testing.differences import difference


def likely_cause(comparison: ReferenceComparison) -> str:
    """Explain the difference in one time step by a simple mistake, or by the values involved.

    Returns:
        A sentence; "" where no simple mistake explains the difference.
    """
    for mistake, problem in _mistakes(comparison.problem()):
        if comparison.difference(problem) is None:
            return f"The cell computes what the reference does {mistake}"
    got, want = comparison.cell(), comparison.expected()
    wrong = [name for name in want if difference(name, got[name], want[name]) is not None]
    agree: list[str] = []
    unread: dict[str, list[str]] = {}
    for source, zeroed in _without_each(comparison):
        if zeroed.difference() is None:
            agree.append(source)
        of_cell, of_reference = zeroed.cell(), zeroed.expected()
        for name in wrong:
            if of_cell[name].equal(got[name]) and not of_reference[name].equal(want[name]):
                unread.setdefault(name, []).append(source)
    if agree:
        return (
            f"They agree without {' or '.join(agree)}: look at how it enters (with the old or the "
            f"new state, before or after which operation)"
        )
    for name, sources in unread.items():
        return (
            f"By the reference {name} depends on {', '.join(sources)}, in the cell it does not. "
            f"Usual cause: a state's old value where the new one belongs"
        )
    return ""


def _mistakes(problem: Problem) -> Iterator[tuple[str, Problem]]:
    """Yield simple mistakes, each with the inputs that make the reference repeat the mistake."""
    for one, other in combinations(problem.b, 2):
        if all(_alike(part, one, other) for part in (problem.W, problem.U, problem.b)):
            swap = {one: other, other: one}
            W, U, b = (
                {gate: part[swap.get(gate, gate)] for gate in part}
                for part in (problem.W, problem.U, problem.b)
            )
            yield f"with the gates {one} and {other} swapped", replace(problem, W=W, U=U, b=b)
    for gate in problem.b:
        W, U, b = (
            {name: -block if name == gate else block for name, block in part.items()}
            for part in (problem.W, problem.U, problem.b)
        )
        negated = f"with gate {gate}'s pre-activation negated, as σ(−a) = 1 − σ(a)"
        yield negated, replace(problem, W=W, U=U, b=b)
    for name, value in problem.extra.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fc":
            extra = {**problem.extra, name: -value}
            yield f"with {name} negated", replace(problem, extra=extra)


def _alike(part: dict[str, Any], one: str, other: str) -> bool:
    """Return whether the blocks of two gates can be swapped."""
    return (one in part) == (other in part) and (
        one not in part or np.shape(part[one]) == np.shape(part[other])
    )


def _without_each(
    comparison: ReferenceComparison,
) -> Iterator[tuple[str, ReferenceComparison]]:
    """Yield the comparison with one parameter's block, or one state, set to zero."""
    cell = comparison.rnn.cell()
    for name in cell.extra:
        if getattr(cell, name) is not None:
            yield name, _zeroed(comparison, partial(_extra, name))
    for kinds in (("weight_hh",), ("bias_hh",), ("weight_hh", "bias_hh"), ("weight_ih",),
                  ("bias_ih",)):  # fmt: skip
        for gate, weights in cell.gate_weights().items():
            if all(getattr(weights, kind) is not None for kind in kinds):
                zeroed = _zeroed(comparison, partial(_blocks, gate, kinds))
                yield f"{' and '.join(kinds)} of gate {gate}", zeroed
    for number, name in enumerate(cell.layout.states):
        states = list(comparison.states)
        states[number] = torch.zeros_like(states[number])
        yield f"the state {name}", replace(comparison, states=tuple(states))


def _blocks(gate: str, kinds: tuple[str, ...], rnn: RNN) -> list[Tensor]:
    return [getattr(rnn.gate_weights()[gate], kind) for kind in kinds]


def _extra(name: str, rnn: RNN) -> list[Tensor]:
    return [rnn.get_parameter(name + "_l0")]


def _zeroed(
    comparison: ReferenceComparison, find: Callable[[RNN], list[Tensor]]
) -> ReferenceComparison:
    """Set the blocks that `find` returns to zero in a copy of the RNN."""
    rnn = copy.deepcopy(comparison.rnn)
    with torch.no_grad():
        for block in find(rnn):
            block.zero_()
    return replace(comparison, rnn=rnn)
