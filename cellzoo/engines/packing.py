"""Parts that engines share: directions, packed batches and checkpointed sequences."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cellzoo.cells.base import GatedCell
from cellzoo.cells.prepared import PreparedCell

States = tuple[Tensor, ...]


class Layer(NamedTuple):
    """One layer of an RNN, in one direction or two, and its input.

    Attributes:
        cells: of the forward direction and, if bidirectional, of the backward one.
        x: (T, B, I); packed: (rows, I).
        batch_sizes: the number of sequences at each step (T,); None: x is not packed.
        dt: elapsed times, in x's leading shape; None: 1.
    """

    cells: Sequence[GatedCell]
    x: Tensor
    batch_sizes: Tensor | None = None
    dt: Tensor | None = None


# Runs one direction of dense input: from projected tensors (T, B, …) and initial states to
# outputs and final states.
Run = Callable[[list[Tensor], States], tuple[Tensor, States]]


def run_directions(
    layer: Layer,
    states: Sequence[States],
    run: Callable[[GatedCell, States, bool], tuple[Tensor, States]],
) -> tuple[Tensor, list[States]]:
    """Run `run(cell, initial, reverse)` for each direction and concatenate the outputs."""
    results = [
        run(cell, initial, reverse)
        for cell, initial, reverse in zip(layer.cells, states, (False, True), strict=False)
    ]
    outputs, finals = map(list, zip(*results, strict=True))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1), finals


def run_projected(
    dense: Callable[[PreparedCell, list[str], bool, list[Tensor], States], tuple[Tensor, States]],
    layer: Layer,
    states: Sequence[States],
    checkpoint_steps: int | None,
) -> tuple[Tensor, list[States]]:
    """Run a layer by an engine that takes projected sequences.

    Args:
        dense: runs one direction of dense input, from a prepared cell, the names of the projected
            tensors, whether time is reversed, these tensors and the initial states.
        layer, states, checkpoint_steps: as in `loop.run`.
    """

    def run(cell: GatedCell, initial: States, reverse: bool) -> tuple[Tensor, States]:
        prepared = PreparedCell(cell)
        projected = prepared.cell.project_sequence(layer.x, layer.dt)  # all steps at once
        direction = partial(dense, prepared, list(projected), reverse)
        tensors = list(projected.values())
        return run_one_direction(
            direction, tensors, initial, layer.batch_sizes, reverse, checkpoint_steps
        )

    return run_directions(layer, states, run)


def run_one_direction(
    run: Run,
    tensors: list[Tensor],
    initial: States,
    batch_sizes: Tensor | None,
    reverse: bool,
    checkpoint_steps: int | None,
) -> tuple[Tensor, States]:
    """Run one direction by `run`, which takes dense input only; see `run_segments`."""
    run = checkpointed(run, checkpoint_steps, reverse)
    if batch_sizes is None:
        return run(tensors, initial)
    return run_segments(tensors, initial, batch_sizes, reverse, run)


def run_segments(
    tensors: Sequence[Tensor], initial: States, batch_sizes: Tensor, reverse: bool, run: Run
) -> tuple[Tensor, States]:
    """Run one direction of a packed batch by `run`, which takes dense input only.

    Consecutive steps of equal batch size form a dense segment (steps, size, …) in time order.
    `run` gets each segment with the states of the sequences that are running.

    Args:
        tensors: packed rows, (rows, …) each.
        initial: the initial states of all sequences, longest first.
        batch_sizes: the number of sequences at each step.
        reverse: whether time is reversed, so that the last segment comes first.
        run: from dense tensors and states to outputs, (steps, size, …), and states.
    """
    sizes, steps = (t.tolist() for t in torch.unique_consecutive(batch_sizes, return_counts=True))
    rows = [size * n for size, n in zip(sizes, steps, strict=True)]
    segments = list(zip(*(tensor.split(rows) for tensor in tensors), strict=True))
    outputs = list(segments[0][:1]) * len(segments)
    running = RunningStates(initial, reverse)
    for k in reversed(range(len(segments))) if reverse else range(len(segments)):
        dense = [tensor.unflatten(0, (steps[k], sizes[k])) for tensor in segments[k]]
        output, running.now = run(dense, running.resize(sizes[k]))
        outputs[k] = output.flatten(0, 1)
    return torch.cat(outputs), running.final()


def checkpointed(run: Run, steps: int | None, reverse: bool) -> Run:
    """Return `run` with only the states of every `steps`-th step saved for the backward pass.

    The backward pass recomputes the others: less memory for more time (Chen et al. 2016,
    arXiv:1604.06174).
    """
    if steps is None:
        return run

    def in_pieces(tensors: list[Tensor], states: States) -> tuple[Tensor, States]:
        pieces = list(zip(*(tensor.split(steps) for tensor in tensors), strict=True))
        outputs = []
        for piece in reversed(pieces) if reverse else pieces:
            output, states = checkpoint(
                run, list(piece), states, use_reentrant=False, preserve_rng_state=False
            )
            outputs.append(output)
        return torch.cat(outputs[::-1] if reverse else outputs), states

    return in_pieces


class RunningStates:
    """The states of the sequences that are running.

    Forward in time, sequences end and drop out of the computation. Backward in time, none runs
    at first, and each sequence begins with its initial state.

    Args:
        initial: the initial states of all sequences, longest first, (B, width) each.
        reverse: whether time is reversed.
    """

    def __init__(self, initial: States, reverse: bool) -> None:
        self.initial = initial
        self.now = tuple(s[:0] for s in initial) if reverse else initial
        self._ended: list[States] = []

    def resize(self, size: int) -> States:
        """Return the states of the `size` sequences that run at this step."""
        before = len(self.now[0])
        if size < before:
            self._ended.append(tuple(s[size:] for s in self.now))
            self.now = tuple(s[:size] for s in self.now)
        elif size > before:
            begin = (s[before:size] for s in self.initial)
            self.now = tuple(torch.cat(parts) for parts in zip(self.now, begin, strict=True))
        return self.now

    def final(self) -> States:
        """Return the state of each sequence after its last step, longest first."""
        if not self._ended:
            return self.now
        parts = zip(self.now, *reversed(self._ended), strict=True)
        return tuple(torch.cat(part) for part in parts)
