"""What the tests of cells share: random numbers, gradients, and a sequence layer written out.

Everything is float64, so that two ways of computing one thing agree to many digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from cellzoo import RNN
from cellzoo.testing.subject import F64
from cellzoo.testing.subject import as_given as in_form
from cellzoo.testing.subject import as_tuple as tensors

Step = Callable[..., tuple[tuple[Tensor, ...], Tensor]]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Random numbers that depend on the seed alone, as a leaf that takes a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=F64) * scale).requires_grad_()


def shake(module: nn.Module, seed: int = 0, scale: float = 0.6) -> None:
    """Give every parameter random values, those with a constant initial value too."""
    for number, parameter in enumerate(module.parameters()):
        with torch.no_grad():
            parameter.copy_(normal(*parameter.shape, seed=seed + number, scale=scale))


def gradients(outputs: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of one fixed random weighting of the outputs."""
    loss = torch.zeros((), dtype=F64)
    for number, output in enumerate(outputs):
        if output.is_complex():
            output = torch.view_as_real(output)
        if output.requires_grad:
            loss = loss + (output * normal(*output.shape, seed=100 + number).detach()).sum()
    found = torch.autograd.grad(loss, list(inputs.values()), materialize_grads=True)
    return dict(zip(inputs, found, strict=True))


def assert_same(got: Mapping[str, Tensor], want: Mapping[str, Tensor], atol: float = 1e-10) -> None:
    """Compare by name; the message says which one differs."""
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(
            got[name], want[name], rtol=1e-12, atol=atol, msg=lambda text, n=name: f"{n}: {text}"
        )


def everything(output: Tensor, state: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Output, states and every gradient, by name."""
    outputs = {"output": output} | {f"state {i}": s for i, s in enumerate(tensors(state))}
    return outputs | gradients(list(outputs.values()), inputs)


def written_out(
    rnn: RNN, step: Step, x: Tensor, initial: Sequence[Tensor], dt: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`rnn` by a plain loop over `step(p, x_t, *states)`, with no help from cellzoo.

    p holds the parameters of one layer and direction under the cell's own names.
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


def random_state(rnn: RNN, batch: int, seed: int = 50) -> tuple[Tensor, ...]:
    """A random state of the right shapes; those that are not real keep their initial values."""
    declared = rnn.cell().layout.states.values()
    drawn = []
    for i, (initial, state) in enumerate(
        zip(tensors(rnn.initial_state(batch)), declared, strict=True)
    ):
        value = normal(*initial.shape, seed=seed + i) if initial.dtype == F64 else initial
        drawn.append(value.detach().abs().requires_grad_() if state.positive else value)
    return tuple(drawn)


def with_gradient(**named: Tensor) -> dict[str, Tensor]:
    """Those that take a gradient."""
    return {name: tensor for name, tensor in named.items() if tensor.requires_grad}


def assert_packed_is_alone(rnn: RNN, lengths: Sequence[int], enforce_sorted: bool) -> None:
    """A packed batch gives what each of its sequences gives by itself, gradients too."""
    steps, batch = max(lengths), len(lengths)
    x, state = normal(steps, batch, rnn.input_size), random_state(rnn, batch)
    inputs = with_gradient(x=x, **{f"s{i}": s for i, s in enumerate(state)})
    inputs |= dict(rnn.named_parameters())
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=enforce_sorted)
    output, final = rnn(packed, in_form(state))
    assert isinstance(output, PackedSequence)
    got = everything(pad_packed_sequence(output)[0], final, inputs)
    outputs, finals = [], []
    for b, length in enumerate(lengths):
        alone = tuple(s[:, b : b + 1] for s in state)
        out, last = rnn(x[:length, b : b + 1], in_form(alone))
        outputs.append(torch.cat([out, out.new_zeros(steps - length, 1, rnn.output_size)]))
        finals.append(tensors(last))
    final = tuple(torch.cat(parts, 1) for parts in zip(*finals, strict=True))
    assert_same(got, everything(torch.cat(outputs, 1), final, inputs))


def assert_equal(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    """To rounding: a test cell may grow without bound, so relative to its size."""
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-9, atol=1e-10)


def share(source: RNN, target: RNN, gates: dict[str, str], sign: float = 1.0) -> None:
    """Copy gates' weights: target's gate to source's; a bias that source lacks is 0."""
    theirs, ours = source.gate_weights(), target.gate_weights()
    with torch.no_grad():
        for gate, other in gates.items():
            for block, from_block in zip(ours[gate], theirs[other], strict=True):
                if block is not None:
                    block.copy_(torch.zeros(()) if from_block is None else sign * from_block)


def assert_outputs_equal(one: RNN, other: RNN) -> None:
    x = normal(6, 3, 3)
    state = random_state(one, 3)
    state = state if len(state) > 1 else state[0]
    torch.testing.assert_close(one(x, state), other(x, state), rtol=1e-12, atol=1e-12)


def make(name: str, **options) -> RNN:
    rnn = RNN(name, 3, 4, dtype=F64, **options)
    shake(rnn, seed=sum(map(ord, name)))
    return rnn
