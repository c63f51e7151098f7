"""Checks of a cell outside the loop: other engines, torch.export, a saved state dict."""

import io
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cellzoo.engines import ENGINES, CompileError, EngineError
from cellzoo.engines.compiled import programs
from cellzoo.nn.rnn import RNN
from cellzoo.testing.differences import (
    assert_same,
    everything,
    inputs_of,
    results,
    with_gradients,
)
from cellzoo.testing.errors import ConformanceError, NotChecked
from cellzoo.testing.subject import Subject, as_given, elapsed, normal, warm_state

STEPS, BATCH = 5, 2


def state_dict(subject: Subject) -> None:
    """Compare the results after saving the state dict and loading it into another instance."""
    rnn, other = subject.rnn(), subject.rnn(seed=1)
    file = io.BytesIO()
    torch.save(rnn.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    x, dt = normal(STEPS, BATCH, rnn.input_size), elapsed(rnn, STEPS, BATCH)
    assert_same(
        results(other, *other(x, None, dt)),
        results(rnn, *rnn(x, None, dt)),
        "The state dict was loaded into another instance. Usual cause: a value that was drawn or "
        "computed when the cell was built and is neither parameter nor buffer",
    )


def export(subject: Subject) -> None:
    """Compare a short sequence with its `torch.export`."""
    rnn = subject.rnn()
    x = normal(2, BATCH, rnn.input_size).detach()
    arguments: tuple[Any, ...] = (x, None, elapsed(rnn, 2, BATCH))
    try:
        exported = torch.export.export(rnn, arguments).module()
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ConformanceError(
            f"torch.export refuses the cell: {type(error).__name__}: {first}. Usual cause: Python "
            f"in `project` that depends on values"
        ) from error
    assert_same(results(rnn, *exported(*arguments)), results(rnn, *rnn(*arguments)),
                "It was exported by torch.export")  # fmt: skip


def engines(subject: Subject) -> None:
    """Compare every engine that takes the cell with the loop, gradients included.

    The compiled engine runs its steps as plain functions; `compiles` compiles them.
    """
    with mock.patch.object(programs, "COMPILE", False):
        agreed = [engine for engine in ENGINES if engine != "loop" and _agrees(subject, engine)]
    if not agreed:
        raise NotChecked("only the loop takes the cell")


def compiles(subject: Subject) -> None:
    """Compare the compiled engine, with its steps compiled, with the loop, gradients included."""
    if not _agrees(subject, "compiled"):
        raise NotChecked("the compiled engine does not take the cell")


def _agrees(subject: Subject, engine: str) -> bool:
    """Return whether an engine takes the cell.

    Raises:
        ConformanceError: The engine takes the cell and computes other results, or fails to
            compile it.
    """
    loop = subject.rnn(bidirectional=True)
    try:
        rnn = subject.rnn(bidirectional=True, engine=engine)
        got = _dense_and_packed(rnn)
    except CompileError as error:
        raise ConformanceError(
            f"engine {engine!r} takes the cell and fails: {error}. If the cell cannot be written "
            f'otherwise, declare engines = ("loop",) and engines_reason'
        ) from error
    except EngineError:
        return False
    for one, other, form in zip(got, _dense_and_packed(loop), ("dense", "packed"), strict=True):
        assert_same(one, other, f"It was run by engine {engine!r}, {form}, and by the loop", loop)
    return True


def _dense_and_packed(rnn: RNN) -> list[dict[str, Tensor]]:
    """Return the results and gradients for a dense and for a packed batch."""
    x, dt = normal(STEPS, BATCH, rnn.input_size), elapsed(rnn, STEPS, BATCH)
    states = warm_state(rnn, BATCH)
    dense = everything(rnn, x, states, dt)
    inputs = inputs_of(rnn, x, states)
    lengths = torch.tensor([STEPS - 2, STEPS])
    pack = partial(pack_padded_sequence, lengths=lengths, enforce_sorted=False)
    output, final = rnn(pack(x), as_given(states), None if dt is None else pack(dt).data)
    packed = results(rnn, pad_packed_sequence(output)[0], final)
    return [dense, with_gradients(packed, inputs)]
