"""Checks of a cell's arithmetic: derivatives, dtypes, finite states."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.func import functional_call

from cellzoo.testing.differences import inputs_of, results
from cellzoo.testing.errors import ConformanceError, NotChecked
from cellzoo.testing.subject import Subject, as_given, as_tuple, elapsed, normal, warm_state

LONG = 2000  # time steps
LARGE = 50.0


def gradients(subject: Subject) -> None:
    """Compare every gradient (of x, the states, each parameter) with finite differences."""
    rnn = subject.rnn()
    x, states, dt = normal(3, 2, rnn.input_size), warm_state(rnn, 2), elapsed(rnn, 3, 2)
    inputs = inputs_of(rnn, x, states)
    initial = [name for name in inputs if name.startswith("the initial")]

    for name, tensor in inputs.items():
        if not tensor.requires_grad:
            continue

        def run(changed: Tensor, name: str = name) -> tuple[Tensor, ...]:
            arguments = {**inputs, name: changed}
            parameters = {n: arguments[n] for n, _ in rnn.named_parameters()}
            state = as_given(tuple(arguments[n] for n in initial))
            output, final = functional_call(rnn, parameters, (arguments["x"], state, dt))
            outputs = (output, *as_tuple(final))
            return tuple(t for t in outputs if t.is_floating_point() or t.is_complex())

        try:
            gradcheck(run, (tensor,), fast_mode=True, check_undefined_grad=False)
        except GradcheckError as error:
            message = " ".join(str(error).split("The above quantities")[0].split())
            raise ConformanceError(
                f"the gradient of {name} is not the finite difference: {message} Usual cause: a "
                f"detach, a no_grad, `.data`, or the backward of an autograd.Function"
            ) from None


def dtypes(subject: Subject) -> None:
    """Compare the dtypes in float32 and bfloat16, and the output in float32 with float64."""
    exact = subject.rnn()
    x, dt = normal(4, 3, exact.input_size).detach(), elapsed(exact, 4, 3)
    want = exact(x, None, dt)[0].detach()
    for dtype in (torch.float32, torch.bfloat16):
        declared = [state.dtype for state in exact.cell().layout.states.values()]
        if dtype == torch.bfloat16 and "complex" in declared:
            continue  # torch has no complex type of this precision
        rnn = subject.rnn().to(dtype)
        rounded = x.to(dtype, copy=True).requires_grad_()
        output, final = rnn(rounded, None, None if dt is None else dt.to(dtype))
        expected = [dtype, *(s.dtype for s in as_tuple(rnn.initial_state(3)))]
        for (name, result), kind in zip(results(rnn, output, final).items(), expected, strict=True):
            if result.dtype != kind:
                raise ConformanceError(
                    f"{name} is {result.dtype} where the parameters are {dtype}: it should be "
                    f"{kind}. Usual cause: a constant or buffer of another dtype"
                )
        (gradient,) = torch.autograd.grad(output.sum(), rounded, materialize_grads=True)
        if not gradient.isfinite().all():
            raise ConformanceError(f"the gradient of x is not finite in {dtype}")
        if dtype == torch.bfloat16:
            continue  # three digits can lose a phase or a small time constant
        error = ((output.double() - want).norm() / want.norm().clamp(min=1e-3)).item()
        if not error <= 1e-4:
            raise ConformanceError(
                f"the output in {dtype} has a relative error of {error:.1g} against float64. Usual "
                f"cause: a small difference of large numbers, a division by a rounded 0"
            )


def long_sequences(subject: Subject) -> None:
    """Require finite states after 2,000 time steps of inputs of ±50, unless `bounded` is False."""
    rnn = subject.rnn(dtype=torch.float32)
    if not rnn.cell().bounded:
        raise NotChecked("the cell declares that its states are not bounded")
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
def _assert_finite(rnn: Any, x: Tensor, setting: str) -> None:
    """Raise where a result is not finite; a second run, step by step, locates the time step."""
    output, state = rnn(x)
    if all(t.isfinite().all() for t in (output, *as_tuple(state))):
        return
    state = None
    for t in range(len(x)):
        output, state = rnn(x[t : t + 1], state)
        for name, result in results(rnn, output, state).items():
            if not result.isfinite().all():
                raise ConformanceError(
                    f"{name} is not finite from step {t} on, for inputs of ±{LARGE:g} ({setting}). "
                    f"Usual cause: exp without a bound, a state that grows. If the published cell "
                    f"is unbounded, declare bounded = False and give the reason in the docstring"
                )
