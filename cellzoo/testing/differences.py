"""Comparing two computations of the same results, with differences in the terms of a cell."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cellzoo.nn.rnn import RNN
from cellzoo.testing.errors import ConformanceError
from cellzoo.testing.subject import as_given, as_tuple, normal

# The names of a result's last dimensions.
DIMENSIONS = {
    "output": ("step", "sequence", "unit"),
    "gradient of x": ("step", "sequence", "input"),
    "state": ("layer", "sequence", "unit"),
}


def results(rnn: RNN, output: Tensor, state: Any) -> dict[str, Tensor]:
    """Return the output and the final states by name."""
    names = rnn.cell().layout.states
    return {"output": output} | {
        f"state {name}": s for name, s in zip(names, as_tuple(state), strict=True)
    }


def with_gradients(
    outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the outputs and the gradients of their fixed random weighting, by name.

    Inputs that do not require a gradient are left out.
    """
    loss = torch.zeros((), dtype=torch.float64)
    for number, result in enumerate(outputs.values()):
        real = torch.view_as_real(result) if result.is_complex() else result
        if real.requires_grad:
            loss = loss + (real * normal(*real.shape, seed=100 + number).detach()).sum()
    inputs = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    gradients = torch.autograd.grad(
        loss, list(inputs.values()), allow_unused=True, materialize_grads=True
    )
    return {**outputs, **{f"gradient of {n}": g for n, g in zip(inputs, gradients, strict=True)}}


def everything(
    rnn: RNN, x: Tensor, states: tuple[Tensor, ...], dt: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the output, the final states and all gradients of one call, by name."""
    output, final = rnn(x, as_given(states), dt)
    return with_gradients(results(rnn, output, final), inputs_of(rnn, x, states))


def inputs_of(rnn: RNN, x: Tensor, states: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the inputs to differentiate: x, the initial states and the parameters, by name."""
    initial = dict(zip((f"the initial {name}" for name in rnn.cell().layout.states), states,
                       strict=True))  # fmt: skip
    return {"x": x, **initial, **dict(rnn.named_parameters())}


def assert_same(
    got: Mapping[str, Tensor],
    want: Mapping[str, Tensor],
    explanation: str,
    rnn: RNN | None = None,
    rtol: float = 1e-9,
    atol: float = 1e-10,
) -> None:
    """Compare results by name.

    Args:
        got, want: the results of the two computations.
        explanation: the meaning and the usual cause of a difference.
        rnn: the layer whose gates name a parameter's rows.
        rtol, atol: the tolerances of `torch.isclose`.

    Raises:
        ConformanceError: Two results differ; the message gives the first difference, then
            `explanation`.
    """
    message = first_difference(got, want, rnn, rtol, atol)
    if message is not None:
        raise ConformanceError(f"{message}. {explanation}")


def first_difference(
    got: Mapping[str, Tensor],
    want: Mapping[str, Tensor],
    rnn: RNN | None = None,
    rtol: float = 1e-9,
    atol: float = 1e-10,
) -> str | None:
    """Describe the first result that differs, the place and the amount; None if all agree."""
    messages = (difference(n, got[n], expected, rnn, rtol, atol) for n, expected in want.items())
    return next((message for message in messages if message is not None), None)


def difference(
    name: str,
    got: Tensor,
    want: Tensor,
    rnn: RNN | None = None,
    rtol: float = 1e-9,
    atol: float = 1e-10,
) -> str | None:
    """Describe the first difference of two results of one name; None if they agree."""
    if got.shape != want.shape:
        return f"{name} is {tuple(got.shape)} instead of {tuple(want.shape)}"
    got, want = got.detach(), want.detach()
    differs = ~torch.isclose(got, want.to(got.dtype), rtol=rtol, atol=atol)
    if not differs.any():
        return None
    index = tuple(differs.nonzero()[0].tolist())
    one, other = got[index].item(), want[index].item()
    place = _place(name, index, rnn)
    return f"{name} differs{place}: {one:.6g} instead of {other:.6g} (by {abs(one - other):.2g})"


def _place(name: str, index: tuple[int, ...], rnn: RNN | None) -> str:
    """Return the place in a result: step, sequence and unit, or the gate of a parameter's row."""
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
