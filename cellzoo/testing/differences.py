"""Comparing two ways of computing one thing, and saying in a cell's terms where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cellzoo.nn.rnn import RNN
from cellzoo.testing.errors import ConformanceError
from cellzoo.testing.subject import as_tuple, normal

# What the dimensions of a named result are.
DIMENSIONS = {
    "output": ("step", "sequence", "unit"),
    "gradient of x": ("step", "sequence", "input"),
    "state": ("layer", "sequence", "unit"),
}


def results(rnn: RNN, output: Tensor, state: Any) -> dict[str, Tensor]:
    """Output and final states by name."""
    names = rnn.cell().layout.states
    return {"output": output} | {
        f"state {name}": s for name, s in zip(names, as_tuple(state), strict=True)
    }


def with_gradients(found: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Results, and the gradients of one fixed random weighting of them, by name."""
    loss = torch.zeros((), dtype=torch.float64)
    for number, result in enumerate(found.values()):
        real = torch.view_as_real(result) if result.is_complex() else result
        if real.requires_grad:
            loss = loss + (real * normal(*real.shape, seed=100 + number).detach()).sum()
    inputs = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    slopes = torch.autograd.grad(
        loss, list(inputs.values()), allow_unused=True, materialize_grads=True
    )
    return {**found, **{f"gradient of {n}": s for n, s in zip(inputs, slopes, strict=True)}}


def everything(
    rnn: RNN, x: Tensor, states: Sequence[Tensor], dt: Tensor | None = None
) -> dict[str, Tensor]:
    """Output, final states and all gradients of one call, by name."""
    given = tuple(states)
    output, final = rnn(x, given[0] if len(given) == 1 else given, dt)
    return with_gradients(results(rnn, output, final), inputs_of(rnn, x, given))


def inputs_of(rnn: RNN, x: Tensor, states: Sequence[Tensor]) -> dict[str, Tensor]:
    """What a gradient is taken of: x, the initial states and the parameters, by name."""
    initial = dict(zip((f"the initial {name}" for name in rnn.cell().layout.states), states,
                       strict=True))  # fmt: skip
    return {"x": x, **initial, **dict(rnn.named_parameters())}


def assert_same(
    got: Mapping[str, Tensor],
    want: Mapping[str, Tensor],
    what: str,
    rnn: RNN | None = None,
    rtol: float = 1e-9,
    atol: float = 1e-10,
) -> None:
    """Compare by name.

    Args:
        got, want: the results of the two ways.
        what: what a difference means and what it usually comes from.
        rnn: names the gates of a parameter's rows.

    Raises:
        ConformanceError: the first result that differs, where and by how much, then `what`.
    """
    said = first_difference(got, want, rnn, rtol, atol)
    if said is not None:
        raise ConformanceError(f"{said}. {what}")


def first_difference(
    got: Mapping[str, Tensor],
    want: Mapping[str, Tensor],
    rnn: RNN | None = None,
    rtol: float = 1e-9,
    atol: float = 1e-10,
) -> str | None:
    """The first result that differs, where and by how much; None if none does."""
    each = (difference(n, got[n], expected, rnn, rtol, atol) for n, expected in want.items())
    return next((said for said in each if said is not None), None)


def difference(
    name: str,
    got: Tensor,
    want: Tensor,
    rnn: RNN | None = None,
    rtol: float = 1e-9,
    atol: float = 1e-10,
) -> str | None:
    """Where two results of one name differ first, and by how much; None if they do not."""
    if got.shape != want.shape:
        return f"{name} is {tuple(got.shape)} instead of {tuple(want.shape)}"
    got, want = got.detach(), want.detach()
    differs = ~torch.isclose(got, want.to(got.dtype), rtol=rtol, atol=atol)
    if not differs.any():
        return None
    index = tuple(int(each) for each in differs.nonzero()[0])
    one, other = got[index].item(), want[index].item()
    place = _place(name, index, rnn)
    return f"{name} differs{place}: {one:.6g} instead of {other:.6g} (by {abs(one - other):.2g})"


def _place(name: str, index: tuple[int, ...], rnn: RNN | None) -> str:
    """Where in a result: its step, sequence and unit, or the gate of a parameter's row."""
    kind = "state" if name.startswith(("state ", "gradient of the initial")) else name
    if kind in DIMENSIONS:
        names = DIMENSIONS[kind][-len(index) :]
        parts = [f"{n} {i}" for n, i in zip(names, index, strict=True) if n != "layer"]
        return " first in " + ", ".join(parts)
    parameter = name.removeprefix("gradient of ").split("_l0")[0]
    rows = rnn.cell().layout.rows(parameter) if rnn is not None else {}
    for gate, piece in rows.items():
        if index and piece.start <= index[0] < piece.stop:
            return f" in gate {gate}, row {index[0] - piece.start}"
    return f" at {list(index)}" if index else ""
