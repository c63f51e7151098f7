"""Helpers of the tests of cells: random parameters and states, comparisons, a plain loop.

Everything is float64: two computations of the same results agree to many digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from cellzoo import RNN
from cellzoo.testing.differences import with_gradients
from cellzoo.testing.sequences import packed_and_separate
from cellzoo.testing.subject import F64, normal
from cellzoo.testing.subject import as_given as in_form
from cellzoo.testing.subject import as_tuple as tensors

Step = Callable[..., tuple[tuple[Tensor, ...], Tensor]]


def shake(module: nn.Module, seed: int = 0, scale: float = 0.6) -> None:
    """Give every parameter random values, including those with a constant initial value."""
    for number, parameter in enumerate(module.parameters()):
        with torch.no_grad():
            parameter.copy_(scale * normal(*parameter.shape, seed=seed + number))


def make(name: str, **options) -> RNN:
    """Return an RNN in float64 with random parameters that depend on the name."""
    rnn = RNN(name, 3, 4, dtype=F64, **options)
    shake(rnn, seed=sum(map(ord, name)))
    return rnn


def random_state(rnn: RNN, batch: int, seed: int = 50) -> tuple[Tensor, ...]:
    """Return random states; a state that is not real keeps the initial value."""
    declared = rnn.cell().layout.states.values()
    states = []
    for i, (initial, state) in enumerate(
        zip(tensors(rnn.initial_state(batch)), declared, strict=True)
    ):
        value = normal(*initial.shape, seed=seed + i) if initial.dtype == F64 else initial
        states.append(value.detach().abs().requires_grad_() if state.positive else value)
    return tuple(states)


def share(source: RNN, target: RNN, gates: dict[str, str], sign: float = 1.0) -> None:
    """Copy the weights of gates, target's gate to source's; a bias without a source is 0."""
    from_weights, to_weights = source.gate_weights(), target.gate_weights()
    with torch.no_grad():
        for gate, other in gates.items():
            for block, from_block in zip(to_weights[gate], from_weights[other], strict=True):
                if block is not None:
                    block.copy_(torch.zeros(()) if from_block is None else sign * from_block)


def with_gradient(**named: Tensor) -> dict[str, Tensor]:
    """Return the tensors that require a gradient."""
    return {name: tensor for name, tensor in named.items() if tensor.requires_grad}


def everything(output: Tensor, state: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the output, the states and every gradient by name."""
    states = {f"state {i}": s for i, s in enumerate(tensors(state))}
    return with_gradients({"output": output} | states, inputs)


def assert_same(
    got: Mapping[str, Tensor],
    want: Mapping[str, Tensor],
    atol: float = 1e-10,
    rtol: float = 1e-12,
) -> None:
    """Compare by name; the message names the tensor that differs."""
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(
            got[name], want[name], rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}"
        )


# Relative to the size of a result, since a test cell may grow without bound.
assert_equal = partial(assert_same, rtol=1e-9)


def assert_outputs_equal(one: RNN, other: RNN) -> None:
    """Compare the outputs and final states of two layers from one random state."""
    x = normal(6, 3, 3)
    state = in_form(random_state(one, 3))
    torch.testing.assert_close(one(x, state), other(x, state), rtol=1e-12, atol=1e-12)


def assert_packed_is_alone(rnn: RNN, lengths: Sequence[int], enforce_sorted: bool) -> None:
    """Compare a packed batch with a separate run of each sequence, gradients included."""
    batch = len(lengths)
    x, state = normal(max(lengths), batch, rnn.input_size), random_state(rnn, batch)
    assert_same(*packed_and_separate(rnn, x, state, None, lengths, enforce_sorted))


def written_out(
    rnn: RNN, step: Step, x: Tensor, initial: Sequence[Tensor], dt: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Compute the layers by a plain loop over `step(p, x_t, *states)`, without cellzoo.

    p holds the parameters of one layer and direction under the names of the cell.
    """
    directions = 2 if rnn.bidirectional else 1
    parameters = dict(rnn.named_parameters())
    finals = []
    for layer in range(rnn.num_layers):
        sides = []
        for reverse in range(directions):
            suffix = f"_l{layer}" + "_reverse" * reverse
            p = SimpleNamespace(
                **{k.removesuffix(suffix): v for k, v in parameters.items() if k.endswith(suffix)}
            )
            states = tuple(s[layer * directions + reverse] for s in initial)
            outputs: dict[int, Tensor] = {}
            for t in reversed(range(len(x))) if reverse else range(len(x)):
                elapsed = () if dt is None else (dt[t].unsqueeze(-1),)
                states, outputs[t] = step(p, x[t], *elapsed, *states)
            sides.append(torch.stack([outputs[t] for t in range(len(x))]))
            finals.append(states)
        x = torch.cat(sides, -1)
    return x, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
