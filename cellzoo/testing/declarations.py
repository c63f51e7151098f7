"""Checks of what a cell declares: parameters, the gates of its memory, elapsed time, inits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from cellzoo.cells.base import GatedCell
from cellzoo.nn.inits import Init, inits
from cellzoo.nn.rnn import RNN
from cellzoo.testing.differences import inputs_of, results, with_gradients
from cellzoo.testing.errors import ConformanceError, NotChecked
from cellzoo.testing.subject import Subject, as_given, elapsed, normal, warm_state

FAINT = 1e-20  # a slope that is none


def builds(subject: Subject) -> None:
    """The cell can be built, and its update is a pure function."""
    try:
        subject.rnn()
    except Exception as error:
        raise ConformanceError(f"it does not build: {type(error).__name__}: {error}") from error


def parameters_used(subject: Subject) -> None:
    """Every parameter, and every gate's rows of it, gets a gradient."""
    rnn = subject.rnn()
    found: dict[str, Tensor] = {}
    for training in (False, True):
        rnn.train(training)
        x, states, dt = normal(12, 4, rnn.input_size), warm_state(rnn, 4), elapsed(rnn, 12, 4)
        output, final = rnn(x, as_given(states), dt)
        slopes = with_gradients(results(rnn, output, final), inputs_of(rnn, x, states))
        for name, _ in rnn.named_parameters():
            found[name] = found.get(name, 0) + slopes[f"gradient of {name}"].abs()
    for name, slope in found.items():
        parameter = name.removesuffix("_l0")
        for gate, rows in rnn.cell().layout.rows(parameter).items():
            if not slope[rows].any():
                raise ConformanceError(
                    f"gate {gate}'s rows of {parameter} are never used: their gradient is zero"
                )
        if not slope.any():
            raise ConformanceError(
                f"parameter {parameter} is never used: its gradient is zero. Usual cause: `update` "
                f"does not read self.{parameter}, or only detached, or multiplies it by zero"
            )


def parameter_count(subject: Subject) -> None:
    """There are as many parameters as the paper counts."""
    if subject.parameters is None:
        raise NotChecked("no formula for the number of parameters was given")
    for i, h in subject.sizes:
        rnn = RNN(subject.cell, i, h, **subject.options)
        count, want = sum(p.numel() for p in rnn.parameters()), subject.parameters(i, h)
        if count != want:
            listed = ", ".join(f"{n.removesuffix('_l0')} {p.numel()}"
                               for n, p in rnn.named_parameters())  # fmt: skip
            raise ConformanceError(
                f"{count} parameters instead of {want} with input_size {i}, hidden_size {h}: "
                f"{listed}. Usual cause: one bias or two (`biases`), a gate that has no block of x "
                f"or of the state"
            )


def keep_and_write(subject: Subject) -> None:
    """A larger bias of the gates under `keep` and `write` acts in the declared direction."""
    cell = subject.rnn().cell()
    if not cell.keep and not cell.write:
        raise NotChecked("declares no gate that keeps its memory")
    for role, of in (("keep", "the states"), ("write", "x")):
        for gate, sign in getattr(cell, role).items():
            if not any(b is not None for b in cell.gate_weights()[gate][2:]):
                raise NotChecked(f"gate {gate} has no bias")
            low, high = (_slope(subject, gate, bias, of) for bias in (-6.0, 6.0))
            if max(low, high) < FAINT:
                raise NotChecked(f"outputs do not depend on {of} of twelve steps before")
            if not sign * (high - low) > 1e-3 * max(low, high):
                raise ConformanceError(
                    f"{role} = {{{gate!r}: {sign:+d}}} says that with a larger bias of gate {gate} "
                    f"outputs depend {'more' if sign > 0 else 'less'} on {of} of twelve steps "
                    f"before, but from bias −6 to +6 that slope goes from {low:.3g} to {high:.3g}. "
                    f"Usual cause: the gate is the share that is overwritten: the other sign"
                )


def _slope(subject: Subject, gate: str, bias: float, of: str) -> float:
    """How much an output depends on the states, or x, twelve steps before; a gate's bias set."""
    rnn = subject.rnn(scale=0.2)
    x, dt, states = normal(12, 3, rnn.input_size), elapsed(rnn, 12, 3), warm_state(rnn, 3)
    with torch.no_grad():
        first, *others = (b for b in rnn.gate_weights()[gate][2:] if b is not None)
        first.fill_(bias)
        for other in others:
            other.zero_()
    output, _ = rnn(x, as_given(states), dt)
    given = [x] if of == "x" else [s for s in states if s.requires_grad]
    total = 0.0
    for unit in output[-1].unbind(-1):
        for slope in torch.autograd.grad(
            unit.sum(), given, retain_graph=True, allow_unused=True, materialize_grads=True
        ):
            total += slope.abs().sum().item()
    return total


def elapsed_time(subject: Subject) -> None:
    """Where the cell takes the time between steps, it uses it."""
    rnn = subject.rnn()
    if not rnn.cell().elapsed_time:
        raise NotChecked("takes no elapsed time")
    x = normal(12, 3, rnn.input_size)
    outputs = [rnn(x, None, torch.full((12, 3), dt, dtype=x.dtype))[0] for dt in (0.5, 1.0, 3.0)]
    if outputs[0].allclose(outputs[1]) and outputs[1].allclose(outputs[2]):
        raise ConformanceError(
            "elapsed_time is declared, but the output is the same for steps of 0.5, 1 and 3. Usual "
            "cause: `update` does not read a.x.dt"
        )
    if not outputs[1].allclose(rnn(x)[0]):
        raise ConformanceError("without dt the output is not that of dt = 1")


def presets(subject: Subject) -> None:
    """Every init scheme fills every parameter, and `init="paper"` does what is declared."""
    for name in inits.names():
        if name != "paper":
            _assert_filled(_initialised(subject, name), f"init={name}")
    rnn = subject.rnn()
    if not rnn.cell().paper_init:
        return
    rnn = _initialised(subject, "paper")
    _assert_filled(rnn, "init=paper")
    declared = Init.of("paper").of_paper(rnn.cell())
    for parameter, choice in declared.blocks.items():
        _assert_as_declared(rnn.cell(), parameter, choice)
    if declared.forget_bias is not None:
        for gate, sign in rnn.cell().keep.items():
            total = sum(b for b in rnn.gate_weights()[gate][2:] if b is not None)
            if not torch.as_tensor(total).allclose(
                torch.tensor(sign * declared.forget_bias).double()
            ):
                raise ConformanceError(f"init=paper: the bias of gate {gate} is not the declared")


def _initialised(subject: Subject, init: str) -> RNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        rnn = RNN(subject.cell, *subject.size, init=init, dtype=torch.float64, **subject.options)
        for parameter in rnn.parameters():
            parameter.data.fill_(math.nan)
        rnn.reset_parameters()
    return rnn.eval()


def _assert_filled(rnn: RNN, how: str) -> None:
    for name, parameter in rnn.named_parameters():
        if not parameter.isfinite().all():
            raise ConformanceError(
                f"{how} leaves {name} without finite values. Usual cause: an Extra whose `init` "
                f"does not fill it"
            )
    if not rnn(normal(3, 2, rnn.input_size))[0].isfinite().all():
        raise ConformanceError(
            f"{how}: the output is not finite after three steps. Usual cause: an extra parameter "
            f"that needs a start of its own, Extra(init=…)"
        )


# What a block is that a scheme has filled, for the schemes that leave no choice.
FILLED: dict[str, Callable[[Tensor, Mapping[str, Any]], bool]] = {
    "identity": lambda w, o: w.equal(o.get("gain", 1.0) * (torch.eye(*w.shape).to(w) if w.dim() == 2
                                                          else torch.ones_like(w))),
    "zeros": lambda w, o: not w.any(),
    "constant": lambda w, o: bool(w.eq(o.get("value", 1.0)).all()),
    "uniform": lambda w, o: bool(((o.get("low", -0.1) <= w) & (w <= o.get("high", 0.1))).all()),
    "orthogonal": lambda w, o: (w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T).allclose(
        o.get("gain", 1.0) ** 2 * torch.eye(min(w.shape)).to(w)) if w.dim() == 2 else True,
    "uniform_gate": lambda w, o: bool(
        ((1 / len(w) <= w.sigmoid() + 1e-9) & (w.sigmoid() - 1e-9 <= 1 - 1 / len(w))).all()),
}  # fmt: skip


def _assert_as_declared(cell: GatedCell, parameter: str, choice: Any) -> None:
    """A parameter's blocks are what its declared schemes fill them with."""
    whole = getattr(cell, parameter).detach()
    rows = cell.layout.rows(parameter)
    heads = cell.layout.blocks[parameter].heads if parameter in cell.layout.blocks else 1
    named = isinstance(choice, str) or "name" in choice
    for gate, scheme in ({None: choice} if named else choice).items():
        name = scheme if isinstance(scheme, str) else scheme["name"]
        options = {} if isinstance(scheme, str) else scheme
        targets = [whole[rows[gate]]] if gate else [whole[r] for r in rows.values()] or [whole]
        for block in (head for target in targets for head in target.chunk(heads)):
            if name in FILLED and not FILLED[name](block, options):
                raise ConformanceError(
                    f"init=paper: {parameter} is not what the scheme {name!r} fills it with. Usual "
                    f"cause: the parameter has an `init` of its own, or forget bias sets it too"
                )
