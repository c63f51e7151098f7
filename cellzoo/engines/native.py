"""torch.nn's own fused kernels, for the cells that they compute exactly."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import _VF, Tensor

from cellzoo.cells.base import GatedCell
from cellzoo.engines.packing import Layer, States, run_directions, run_segments
from cellzoo.engines.private import is_transformed

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def kernel(cell: GatedCell) -> str | None:
    """Return the kernel of this cell: "lstm", "gru", "rnn_tanh" or "rnn_relu"; None without one."""
    declared = vars(type(cell)).get("native")  # not inherited, because a subclass may differ
    return f"rnn_{cell.options['nonlinearity']}" if declared == "rnn" else declared


def declines(layer: Layer) -> str | None:
    """Return the reason why torch.nn's kernels cannot run this exactly; None if they can."""
    cell, x = layer.cells[0], layer.x
    if kernel(cell) is None:
        return f"torch.nn has no kernel for {cell.name}"
    if torch.is_autocast_enabled(x.device.type):
        return "under autocast the kernels' states are not float32"
    if x.dtype not in (torch.float32, torch.float64) and x.device.type == "cpu":
        return f"not tested as exact with {x.dtype} on the CPU"
    if is_transformed():
        return "the kernels have no rule for torch.func's transforms"
    return None


def run(layer: Layer, states: Sequence[States]) -> tuple[Tensor, list[States]]:
    """Run one layer over time; arguments and result as for `loop.run`."""
    cells, x, batch_sizes, dt = layer
    if dt is not None:
        raise ValueError(f"{cells[0].name} takes no elapsed time: leave dt out")
    if batch_sizes is None or kernel(cells[0]) != "lstm" or x.device.type != "cpu":
        return _call(layer, states)
    # On the CPU the fast LSTM kernel takes only dense segments of equal batch size.
    return run_directions(layer, states, partial(_run_packed, x, batch_sizes))


def _run_packed(
    x: Tensor, batch_sizes: Tensor, cell: GatedCell, initial: States, reverse: bool
) -> tuple[Tensor, States]:
    """Run one direction of packed input, by a dense call for each segment of equal batch size."""

    def dense(segment: list[Tensor], state: States) -> tuple[Tensor, States]:
        (x,) = segment
        output, (final,) = _call(Layer([cell], x.flip(0) if reverse else x), [state])
        return output.flip(0) if reverse else output, final

    return run_segments([x], initial, batch_sizes, reverse, dense)


def _call(layer: Layer, states: Sequence[States]) -> tuple[Tensor, list[States]]:
    """Call torch.nn's kernel for one layer, of one direction or two."""
    cells, x, batch_sizes, _ = layer
    weights = [
        weight
        for direction in cells
        for name in WEIGHTS
        if (weight := getattr(direction, name, None)) is not None
    ]
    function = getattr(_VF, kernel(cells[0]) or "")
    stacked = [torch.stack(parts) for parts in zip(*states, strict=True)]
    initial = stacked if len(stacked) > 1 else stacked[0]
    # One layer: RNN handles depth, and the dropout between layers. The flag is "train". Without
    # dropout it means only that a backward pass may follow.
    options = (cells[0].bias, 1, 0.0, torch.is_grad_enabled(), len(cells) == 2)
    if batch_sizes is None:
        output, *final = function(x, initial, weights, *options, False)
    else:
        output, *final = function(x, batch_sizes, initial, weights, *options)
    return output, list(zip(*(tensor.unbind(0) for tensor in final), strict=True))
