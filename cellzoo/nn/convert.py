"""Weights of other layouts, as cellzoo's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cellzoo.nn.rnn import RNN


def from_i2h_h2h(
    i2h_weight: Tensor,
    i2h_bias: Tensor,
    h2h_weight: Tensor,
    h2h_bias: Tensor,
    gate_order: Sequence[str] = ("i", "f", "o", "g"),
) -> RNN:
    """The hand-written LSTM cell with `i2h` and `h2h` linear layers, as an `lstm` RNN.

    Such a cell makes 4·H pre-activations by two linear layers, `i2h(x) + h2h(h)`, and splits
    them into gates in an order of its own. Here the rows are put into the order i, f, g, o.
    Its call `forward(x, (h, c))` with states (1, B, H) is one step, `rnn(x[None], (h, c))`.

    Args:
        i2h_weight: (4·H, I).  i2h_bias: (4·H).
        h2h_weight: (4·H, H).  h2h_bias: (4·H).
        gate_order: the gates of its rows, from the first H rows on; g is the candidate.

    Raises:
        ValueError: a shape that does not fit, or an order that is none of i, f, g, o.
    """
    if sorted(gate_order) != sorted("ifgo"):
        raise ValueError(f"gate_order must hold i, f, g and o, once each, not {tuple(gate_order)}")
    hidden_size = h2h_weight.shape[-1]
    rows = 4 * hidden_size
    for name, tensor, shape in (
        ("h2h_weight", h2h_weight, (rows, hidden_size)),
        ("h2h_bias", h2h_bias, (rows,)),
        ("i2h_weight", i2h_weight, (rows, i2h_weight.shape[-1])),
        ("i2h_bias", i2h_bias, (rows,)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, not {tuple(tensor.shape)}")
    rnn = RNN(
        "lstm", i2h_weight.shape[1], hidden_size, device=i2h_weight.device, dtype=i2h_weight.dtype
    )

    def reorder(tensor: Tensor) -> Tensor:
        by_gate = dict(zip(gate_order, tensor.detach().chunk(4), strict=True))
        return torch.cat([by_gate[gate] for gate in rnn.cell().gates])

    rnn.load_state_dict(
        {
            "weight_ih_l0": reorder(i2h_weight),
            "weight_hh_l0": reorder(h2h_weight),
            "bias_ih_l0": reorder(i2h_bias),
            "bias_hh_l0": reorder(h2h_bias),
        }
    )
    return rnn
