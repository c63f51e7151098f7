"""Checks of a cell's arithmetic: its derivatives, its dtypes, and that it stays finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.func import functional_call

from cellzoo.testing.differences import inputs_of, results
from cellzoo.testing.errors import ConformanceError, NotChecked
from cellzoo.testing.subject import Subject, as_given, as_tuple, elapsed, normal, warm_state

LONG = 2000  # steps
LARGE = 50.0


def gradients(subject: Subject) -> None:
    """Every gradient (of x, of the states, of each parameter) is the finite difference."""
    rnn = subject.rnn()
    x, states, dt = normal(3, 2, rnn.input_size), warm_state(rnn, 2), elapsed(rnn, 3, 2)
    inputs = inputs_of(rnn, x, states)
    initial = [name for name in inputs if name.startswith("the initial")]

    for name, tensor in inputs.items():
        if not tensor.requires_grad:
            continue

        def run(changed: Tensor, name: str = name) -> tuple[Tensor, ...]:
            given = {**inputs, name: changed}
            parameters = {n: given[n] for n, _ in rnn.named_parameters()}
            state = as_given(tuple(given[n] for n in initial))
            output, final = functional_call(rnn, parameters, (given["x"], state, dt))
            found = (output, *as_tuple(final))
            return tuple(t for t in found if t.is_floating_point() or t.is_complex())

        try:
            gradcheck(run, (tensor,), fast_mode=True, check_undefined_grad=False)
        except GradcheckError as error:
            said = " ".join(str(error).split("The above quantities")[0].split())
            raise ConformanceError(
                f"the gradient of {name} is not the finite difference: {said} Usual cause: a "
                f"detach, a no_grad, `.data`, or the backward of an autograd.Function"
            ) from None


def dtypes(subject: Subject) -> None:
    """In float32 and bfloat16: results have the dtype, float32's are near those of float64."""
    exact = subject.rnn()
    x, dt = normal(4, 3, exact.input_size).detach(), elapsed(exact, 4, 3)
    want = exact(x, None, dt)[0].detach()
    for dtype in (torch.float32, torch.bfloat16):
        declared = [state.dtype for state in exact.cell().layout.states.values()]
        if dtype == torch.bfloat16 and "complex" in declared:
            continue  # there is no complex type beside it
        rnn = subject.rnn().to(dtype)
        given = x.to(dtype, copy=True).requires_grad_()
        output, final = rnn(given, None, None if dt is None else dt.to(dtype))
        expected = [dtype, *(s.dtype for s in as_tuple(rnn.initial_state(3)))]
        for (name, result), kind in zip(results(rnn, output, final).items(), expected, strict=True):
            if result.dtype != kind:
                raise ConformanceError(
                    f"{name} is {result.dtype} where the parameters are {dtype}: it should be "
                    f"{kind}. Usual cause: a constant or buffer of another dtype"
                )
        (slope,) = torch.autograd.grad(output.sum(), given, materialize_grads=True)
        if not slope.isfinite().all():
            raise ConformanceError(f"the gradient of x is not finite in {dtype}")
        if dtype == torch.bfloat16:
            continue  # three digits: a phase or a small time constant may be lost
        off = ((output.double() - want).norm() / want.norm().clamp(min=1e-3)).item()
        if not off <= 1e-4:
            raise ConformanceError(
                f"the output in {dtype} is {off:.1g} of its size away from that in float64. Usual "
                f"cause: a small difference of large numbers, a division by what rounds to zero"
            )


def long_sequences(subject: Subject) -> None:
    """Inputs of ±50 over 2,000 steps leave every state finite, where the cell promises it."""
    rnn = subject.rnn(dtype=torch.float32)
    if not rnn.cell().bounded:
        raise NotChecked("declares that its states are not bounded")
    inits: list[Any] = ["torch", *(["paper"] if rnn.cell().paper_init else [])]
    for init in inits:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            rnn = type(rnn)(subject.cell, *subject.size, init=init, engine="loop",
                            **subject.options).eval()  # fmt: skip
        signs = normal(LONG, 3, rnn.input_size).detach().sign().float()
        signs[:, 1], signs[:, 2] = 1, -1
        _assert_finite(rnn, LARGE * signs, f"init={init}")


@torch.no_grad()
def _assert_finite(rnn: Any, x: Tensor, how: str) -> None:
    output, state = rnn(x)
    if all(t.isfinite().all() for t in (output, *as_tuple(state))):
        return
    state = None  # again, step by step, to say where
    for t in range(len(x)):
        output, state = rnn(x[t : t + 1], state)
        for name, result in results(rnn, output, state).items():
            if not result.isfinite().all():
                raise ConformanceError(
                    f"{name} is not finite from step {t} on, for inputs of ±{LARGE:g} ({how}). "
                    f"Usual cause: exp without a bound, a state that grows; if the paper's cell "
                    f"does so, declare bounded = False and say why in the docstring"
                )
