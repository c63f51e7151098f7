"""Checks of a cell over time: the same results in every form of a sequence."""

import copy
from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from cellzoo.nn.rnn import RNN
from cellzoo.testing.differences import (
    assert_same,
    everything,
    inputs_of,
    results,
    with_gradients,
)
from cellzoo.testing.errors import ConformanceError
from cellzoo.testing.subject import Subject, as_given, as_tuple, elapsed, normal, warm_state

STEPS, BATCH = 6, 3


def uses_its_input(subject: Subject) -> None:
    """Require outputs that depend on x in the same time step and in earlier ones."""
    rnn = subject.rnn()
    x = normal(12, BATCH, rnn.input_size)
    output, _ = rnn(x, as_given(warm_state(rnn, BATCH)), elapsed(rnn, 12, BATCH))
    dependence = torch.zeros(12, 12)
    for t in range(12):
        if output.requires_grad:
            (gradient,) = torch.autograd.grad(
                output[t].sum(), x, retain_graph=True, materialize_grads=True
            )
            dependence[t] = gradient.abs().sum((1, 2))
    if not dependence.any():
        raise ConformanceError("the output does not depend on x: no gate and no state reads it")
    if not dependence.tril(-1).any():
        raise ConformanceError(
            "no output depends on an earlier x: the cell has no memory. Usual cause: `update` "
            "reads neither the states nor a.h"
        )


def causality(subject: Subject) -> None:
    """Require outputs that do not depend on a later x."""
    rnn = subject.rnn()
    x, dt = normal(STEPS, BATCH, rnn.input_size), elapsed(rnn, STEPS, BATCH)
    before, _ = rnn(x, None, dt)
    for t in range(1, STEPS):
        changed = torch.cat([x[:t], normal(STEPS - t, BATCH, rnn.input_size, seed=t)])
        assert_same(
            {"output": rnn(changed, None, dt)[0][:t]},
            {"output": before[:t]},
            f"Only x from step {t} on was changed: the cell looks ahead. Usual cause: `project` "
            f"mixes steps (roll, flip, an uncausal convolution, a norm over time)",
        )


def batch_independence(subject: Subject) -> None:
    """Require results and gradients, in eval mode, that do not depend on the rest of the batch."""
    rnn = subject.rnn()
    x, states, dt = (
        normal(STEPS, BATCH, rnn.input_size), warm_state(rnn, BATCH), elapsed(rnn, STEPS, BATCH)
    )  # fmt: skip
    before = _by_sequence(everything(rnn, x, states, dt))
    other = torch.ones(BATCH, 1, dtype=x.dtype)
    other[1] = -3
    after = _by_sequence(everything(rnn, (x * other).detach().requires_grad_(), states, dt))
    assert_same(
        {name: result[:, [0, 2]] for name, result in after.items()},
        {name: result[:, [0, 2]] for name, result in before.items()},
        "Only another sequence of the batch was changed. Usual cause: a mean, norm or softmax over "
        "the batch's dimension, or statistics of the batch in eval mode",
    )


def _by_sequence(outcome: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the results whose second dimension is the batch."""
    kinds = ("output", "state ", "gradient of x", "gradient of the initial")
    return {name: result for name, result in outcome.items() if name.startswith(kinds)}


def determinism(subject: Subject) -> None:
    """Require the same results, in eval mode, of a repeated call and of a copy of the cell."""
    rnn = subject.rnn()
    x, dt = normal(STEPS, BATCH, rnn.input_size), elapsed(rnn, STEPS, BATCH)
    twin = copy.deepcopy(rnn)
    first = results(rnn, *rnn(x, None, dt))
    rnn(normal(2, 1, rnn.input_size, seed=9))
    cause = "random numbers outside training, or an attribute of the cell that a call changes"
    assert_same(results(rnn, *rnn(x, None, dt)), first,
                f"The same call was repeated. Usual cause: {cause}")  # fmt: skip
    assert_same(results(twin, *twin(x, None, dt)), first,
                f"A copy of the cell was called. Usual cause: {cause}")  # fmt: skip


def chunks(subject: Subject) -> None:
    """Compare a sequence in two parts, with the state carried over, with the whole sequence."""
    rnn = subject.rnn(num_layers=2)
    x, dt = normal(7, BATCH, rnn.input_size), elapsed(rnn, 7, BATCH)
    states = warm_state(rnn, BATCH)
    whole = everything(rnn, x, states, dt)
    first, middle = rnn(x[:3], as_given(states), None if dt is None else dt[:3])
    second, end = rnn(x[3:], middle, None if dt is None else dt[3:])
    halves = results(rnn, torch.cat([first, second]), end)
    assert_same(
        with_gradients(halves, inputs_of(rnn, x, states)),
        whole,
        "The sequence was run in two parts, the state carried over, the second from step 3. Usual "
        "cause: a value that outlives a time step and is not a state (an earlier input in "
        "`project`, a counter): make it a state",
        rnn,
    )


def steps(subject: Subject) -> None:
    """Compare `cell.step`, one time step at a time, with the sequence."""
    rnn = subject.rnn()
    x, dt = normal(STEPS, BATCH, rnn.input_size), elapsed(rnn, STEPS, BATCH)
    cell, state, outputs = rnn.cell(), None, []
    for t in range(STEPS):
        output, state = cell.step(x[t], state, None if dt is None else dt[t])
        outputs.append(output)
    stacked = as_given(tuple(s[None] for s in as_tuple(state)))
    assert_same(
        results(rnn, torch.stack(outputs), stacked),
        results(rnn, *rnn(x, None, dt)),
        "It was run by `cell.step`, one step at a time. Usual cause: `project` takes a dimension "
        "for time: it must treat steps, batch and packed rows alike, as leading dimensions",
    )


def packed(subject: Subject) -> None:
    """Compare a packed batch with a separate run of each sequence, gradients included."""
    rnn = subject.rnn(bidirectional=True)
    lengths = [1, 4, 2, 4]
    x, dt, states = normal(4, 4, rnn.input_size), elapsed(rnn, 4, 4), warm_state(rnn, 4)
    got, want = packed_and_separate(rnn, x, states, dt, lengths)
    assert_same(
        got,
        want,
        f"Sequences of the lengths {lengths} were packed, and run separately. Usual cause: "
        f"`project` expects x of shape (T, B, I); packed x is (rows, I)",
        rnn,
    )


def packed_and_separate(
    rnn: RNN,
    x: torch.Tensor,
    states: tuple[torch.Tensor, ...],
    dt: torch.Tensor | None,
    lengths: Sequence[int],
    enforce_sorted: bool = False,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the results and gradients of a packed batch, and those of each sequence alone.

    Args:
        rnn: the layers.
        x: the sequences, (T, B, I).
        states: the initial states, (layers × directions, B, width) each.
        dt: the elapsed times, (T, B); None for a cell without elapsed time.
        lengths: the length of each sequence.
        enforce_sorted: as in `pack_padded_sequence`.
    """
    inputs = inputs_of(rnn, x, states)

    def pack(tensor: torch.Tensor) -> PackedSequence:
        return pack_padded_sequence(tensor, torch.tensor(lengths), enforce_sorted=enforce_sorted)

    output, final = rnn(pack(x), as_given(states), None if dt is None else pack(dt).data)
    got = with_gradients(results(rnn, pad_packed_sequence(output)[0], final), inputs)
    outputs, finals = [], []
    for b, length in enumerate(lengths):
        alone = tuple(s[:, b : b + 1] for s in states)
        part, last = rnn(x[:length, b : b + 1], as_given(alone),
                         None if dt is None else dt[:length, b : b + 1])  # fmt: skip
        outputs.append(torch.cat([part, part.new_zeros(len(x) - length, 1, rnn.output_size)]))
        finals.append(as_tuple(last))
    final = as_given(tuple(torch.cat(parts, 1) for parts in zip(*finals, strict=True)))
    return got, with_gradients(results(rnn, torch.cat(outputs, 1), final), inputs)


def backwards(subject: Subject) -> None:
    """Compare the backward direction with the cell over the flipped sequence."""
    both, ahead, back = subject.rnn(bidirectional=True), subject.rnn(), subject.rnn()
    weights = both.state_dict()
    ahead.load_state_dict({n: w for n, w in weights.items() if not n.endswith("_reverse")})
    back.load_state_dict(
        {n.removesuffix("_reverse"): w for n, w in weights.items() if n.endswith("_reverse")}
    )
    x, dt = normal(STEPS, BATCH, both.input_size), elapsed(both, STEPS, BATCH)
    output, final = both(x, None, dt)
    first, first_final = ahead(x, None, dt)
    second, second_final = back(x.flip(0), None, None if dt is None else dt.flip(0))
    finals = zip(as_tuple(first_final), as_tuple(second_final), strict=True)
    flipped = torch.cat([first, second.flip(0)], -1)
    assert_same(
        results(both, output, final),
        results(both, flipped, as_given(tuple(torch.cat(pair) for pair in finals))),
        "A bidirectional layer was compared with the cell over the flipped sequence. Usual cause: "
        "`project` depends on the place in the sequence",
    )


def shapes(subject: Subject) -> None:
    """Compare the shapes of outputs and states with the declared shapes, unbatched x included."""
    rnn = subject.rnn()
    for length, batch in ((1, 1), (2, 1), (1, 3), (4, 3)):
        x, dt = normal(length, batch, rnn.input_size), elapsed(rnn, length, batch)
        output, final = rnn(x, None, dt)
        got = results(rnn, output, final)
        expected = {"output": (length, batch, rnn.output_size)} | {
            f"state {name}": (1, batch, rnn.cell().width(state.width))
            for name, state in rnn.cell().layout.states.items()
        }
        for name, shape in expected.items():
            if got[name].shape != shape:
                raise ConformanceError(
                    f"{name} is {tuple(got[name].shape)} instead of {shape} for x of "
                    f"{tuple(x.shape)}. Usual cause: a squeeze, or a reshape that assumes a size"
                )
        if batch == 1:
            alone = rnn(x[:, 0], None, None if dt is None else dt[:, 0])[0]
            assert_same({"output": alone}, {"output": output[:, 0]},
                        "x was given without a batch, (T, I)")  # fmt: skip
    _same_with_batch_first(rnn, subject)


def _same_with_batch_first(rnn: RNN, subject: Subject) -> None:
    """Compare the outputs of a layer with `batch_first` with those of `rnn`."""
    other = subject.rnn(batch_first=True)
    x, dt = normal(4, BATCH, rnn.input_size), elapsed(rnn, 4, BATCH)
    assert_same(
        {"output": other(x.transpose(0, 1), None, None if dt is None else dt.T)[0].transpose(0, 1)},
        {"output": rnn(x, None, dt)[0]},
        "x was given with batch_first, (B, T, I)",
    )
