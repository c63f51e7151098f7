"""What a difference from a reference may come from: simple mistakes, tried one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cellzoo.cells.base import GateWeights
from cellzoo.nn.rnn import RNN
from cellzoo.testing.differences import difference

if TYPE_CHECKING:
    from cellzoo.testing.reference import Comparison, Problem


def likely_cause(first: Comparison) -> str:
    """A simple mistake that explains the difference in one step, else what has to do with it.

    Returns:
        A sentence; "" where nothing simple explains it.
    """
    for what, mistaken in _mistakes(first.problem()):
        if first.differs(mistaken) is None:
            return f"The cell computes what the reference does {what}"
    got, want = first.cell(), first.expected()
    wrong = [name for name in want if difference(name, got[name], want[name]) is not None]
    agree: list[str] = []
    unread: dict[str, list[str]] = {}
    for what, other in _without_each(first):
        if other.differs() is None:
            agree.append(what)
        mine, its = other.cell(), other.expected()
        for name in wrong:
            if mine[name].equal(got[name]) and not its[name].equal(want[name]):
                unread.setdefault(name, []).append(what)
    if agree:
        return (
            f"They agree without {' or '.join(agree)}: look at how it enters (with the old or the "
            f"new state, before or after what)"
        )
    for name, blind in unread.items():
        return (
            f"By the reference {name} depends on {', '.join(blind)}, in the cell it does not. "
            f"Usual cause: a state's old value where the new one belongs"
        )
    return ""


def _mistakes(given: Problem) -> Iterator[tuple[str, Problem]]:
    """Simple mistakes, as what the reference would have to be given to make them too."""
    for one, other in combinations(given.b, 2):
        if all(_alike(part, one, other) for part in (given.W, given.U, given.b)):
            swap = {one: other, other: one}
            W, U, b = (
                {gate: part[swap.get(gate, gate)] for gate in part}
                for part in (given.W, given.U, given.b)
            )
            yield f"with the gates {one} and {other} swapped", replace(given, W=W, U=U, b=b)
    for gate in given.b:
        W, U, b = (
            {each: -block if each == gate else block for each, block in part.items()}
            for part in (given.W, given.U, given.b)
        )
        turned = f"with the sign of gate {gate}'s pre-activation turned, as σ(−a) = 1 − σ(a)"
        yield turned, replace(given, W=W, U=U, b=b)
    for name, value in given.extra.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fc":
            extra = {**given.extra, name: -value}
            yield f"with the sign of {name} turned", replace(given, extra=extra)


def _alike(part: dict[str, Any], one: str, other: str) -> bool:
    """Whether two gates' blocks could be swapped."""
    return (one in part) == (other in part) and (
        one not in part or np.shape(part[one]) == np.shape(part[other])
    )


def _without_each(first: Comparison) -> Iterator[tuple[str, Comparison]]:
    """The comparison with one parameter's block, or one state, at zero."""
    cell = first.rnn.cell()
    for name in cell.extra:
        if getattr(cell, name) is not None:
            yield name, _zeroed(first, partial(_extra, name))
    for kinds in (("weight_hh",), ("bias_hh",), ("weight_hh", "bias_hh"), ("weight_ih",),
                  ("bias_ih",)):  # fmt: skip
        for gate, weights in cell.gate_weights().items():
            if _blocks(weights, kinds):
                yield (
                    f"{' and '.join(kinds)} of gate {gate}",
                    _zeroed(first, partial(_of_gate, gate, kinds)),
                )
    for number, name in enumerate(cell.layout.states):
        states = list(first.states)
        states[number] = torch.zeros_like(states[number])
        yield f"the state {name}", replace(first, states=tuple(states))


def _blocks(weights: GateWeights, kinds: tuple[str, ...]) -> list[Tensor]:
    found = [getattr(weights, kind) for kind in kinds]
    return found if all(block is not None for block in found) else []


def _of_gate(gate: str, kinds: tuple[str, ...], rnn: RNN) -> list[Tensor]:
    return _blocks(rnn.gate_weights()[gate], kinds)


def _extra(name: str, rnn: RNN) -> list[Tensor]:
    return [rnn.get_parameter(name + "_l0")]


def _zeroed(first: Comparison, find: Callable[[RNN], list[Tensor]]) -> Comparison:
    rnn = copy.deepcopy(first.rnn)
    with torch.no_grad():
        for block in find(rnn):
            block.zero_()
    return replace(first, rnn=rnn)
