"""Checks of a cell's declarations: parameters, `keep` and `write`, elapsed time, inits."""

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

NEGLIGIBLE = 1e-20  # a gradient below this is zero


def builds(subject: Subject) -> None:
    """Build the cell, and require that its update is a pure function."""
    try:
        subject.rnn()
    except Exception as error:
        raise ConformanceError(
            f"the cell cannot be built: {type(error).__name__}: {error}"
        ) from error


def parameters_used(subject: Subject) -> None:
    """Require a gradient of every parameter and of every gate's rows."""
    rnn = subject.rnn()
    total: dict[str, Tensor] = {}
    for training in (False, True):
        rnn.train(training)
        x, states, dt = normal(12, 4, rnn.input_size), warm_state(rnn, 4), elapsed(rnn, 12, 4)
        output, final = rnn(x, as_given(states), dt)
        outcome = with_gradients(results(rnn, output, final), inputs_of(rnn, x, states))
        for name, _ in rnn.named_parameters():
            total[name] = total.get(name, 0) + outcome[f"gradient of {name}"].abs()
    for name, gradient in total.items():
        parameter = name.removesuffix("_l0")
        for gate, rows in rnn.cell().layout.rows(parameter).items():
            if not gradient[rows].any():
                raise ConformanceError(
                    f"gate {gate}'s rows of {parameter} are never used: their gradient is zero"
                )
        if not gradient.any():
            raise ConformanceError(
                f"parameter {parameter} is never used: its gradient is zero. Usual cause: `update` "
                f"does not read self.{parameter}, detaches it or multiplies it by zero"
            )


def parameter_count(subject: Subject) -> None:
    """Compare the number of parameters with the paper's formula."""
    if subject.parameters is None:
        raise NotChecked("no formula for the number of parameters was given")
    for i, h in subject.sizes:
        rnn = RNN(subject.cell, i, h, **subject.options)
        count, expected = sum(p.numel() for p in rnn.parameters()), subject.parameters(i, h)
        if count != expected:
            listed = ", ".join(f"{n.removesuffix('_l0')} {p.numel()}"
                               for n, p in rnn.named_parameters())  # fmt: skip
            raise ConformanceError(
                f"{count} parameters instead of {expected} with input_size {i}, hidden_size {h}: "
                f"{listed}. Usual cause: one bias instead of two (`biases`), a gate without "
                f"a block of x or of the state"
            )


def keep_and_write(subject: Subject) -> None:
    """Require that a larger bias of the gates in `keep` and `write` acts as declared."""
    cell = subject.rnn().cell()
    if not cell.keep and not cell.write:
        raise NotChecked("the cell declares neither keep nor write")
    for role, source in (("keep", "the states"), ("write", "x")):
        for gate, sign in getattr(cell, role).items():
            if not any(b is not None for b in cell.gate_weights()[gate][2:]):
                raise NotChecked(f"gate {gate} has no bias")
            low, high = (_dependence(subject, gate, bias, source) for bias in (-6.0, 6.0))
            if max(low, high) < NEGLIGIBLE:
                raise NotChecked(f"outputs do not depend on {source} of twelve steps before")
            if not sign * (high - low) > 1e-3 * max(low, high):
                raise ConformanceError(
                    f"{role} = {{{gate!r}: {sign:+d}}} declares that with a larger bias of gate "
                    f"{gate} outputs depend {'more' if sign > 0 else 'less'} on {source} of twelve "
                    f"steps before, but from bias −6 to +6 the gradient goes from {low:.3g} to "
                    f"{high:.3g}. Usual cause: the gate is the overwritten share and needs the "
                    f"other sign"
                )


def _dependence(subject: Subject, gate: str, bias: float, source: str) -> float:
    """Return the gradient of the output in the states or x twelve steps before, at one bias."""
    rnn = subject.rnn(scale=0.2)
    x, dt, states = normal(12, 3, rnn.input_size), elapsed(rnn, 12, 3), warm_state(rnn, 3)
    with torch.no_grad():
        first, *others = (b for b in rnn.gate_weights()[gate][2:] if b is not None)
        first.fill_(bias)
        for other in others:
            other.zero_()
    output, _ = rnn(x, as_given(states), dt)
    inputs = [x] if source == "x" else [s for s in states if s.requires_grad]
    total = 0.0
    for unit in output[-1].unbind(-1):
        for gradient in torch.autograd.grad(
            unit.sum(), inputs, retain_graph=True, materialize_grads=True
        ):
            total += gradient.abs().sum().item()
    return total


def elapsed_time(subject: Subject) -> None:
    """Require outputs that depend on a declared elapsed time; without dt, dt is 1."""
    rnn = subject.rnn()
    if not rnn.cell().elapsed_time:
        raise NotChecked("the cell takes no elapsed time")
    x = normal(12, 3, rnn.input_size)
    outputs = [rnn(x, None, torch.full((12, 3), dt, dtype=x.dtype))[0] for dt in (0.5, 1.0, 3.0)]
    if outputs[0].allclose(outputs[1]) and outputs[1].allclose(outputs[2]):
        raise ConformanceError(
            "elapsed_time is declared, but the output is the same for steps of 0.5, 1 and 3. Usual "
            "cause: `update` does not read a.x.dt"
        )
    if not outputs[1].allclose(rnn(x)[0]):
        raise ConformanceError("the output without dt differs from the output for dt = 1")


def presets(subject: Subject) -> None:
    """Require that every init scheme fills every parameter, and `init="paper"` as declared."""
    for name in inits.names():
        if name != "paper":
            _assert_filled(_initialised(subject, name), f"init={name}")
    if not subject.rnn().cell().paper_init:
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
                raise ConformanceError(
                    f"init=paper: the bias of gate {gate} is not the declared forget bias"
                )


def _initialised(subject: Subject, init: str) -> RNN:
    """Return an RNN whose parameters were NaN before a scheme initialised them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        rnn = RNN(subject.cell, *subject.size, init=init, dtype=torch.float64, **subject.options)
        for parameter in rnn.parameters():
            parameter.data.fill_(math.nan)
        rnn.reset_parameters()
    return rnn.eval()


def _assert_filled(rnn: RNN, setting: str) -> None:
    """Require finite parameters, and a finite output after three time steps."""
    for name, parameter in rnn.named_parameters():
        if not parameter.isfinite().all():
            raise ConformanceError(
                f"{setting} leaves {name} without finite values. Usual cause: an Extra whose "
                f"`init` does not fill it"
            )
    if not rnn(normal(3, 2, rnn.input_size))[0].isfinite().all():
        raise ConformanceError(
            f"{setting}: the output is not finite after three steps. Usual cause: an extra "
            f"parameter that needs an initial value of its own, Extra(init=…)"
        )


# Whether a block and a scheme's options agree, for the schemes that determine the values.
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
    """Require that each block of a parameter holds the values of its declared scheme."""
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
                    f"init=paper: {parameter} does not hold the values of the scheme {name!r}. "
                    f"Usual cause: the parameter has an `init` of its own, or the forget bias "
                    f"sets it too"
                )
