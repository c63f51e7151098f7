"""Conversions of weights from other layouts."""

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
    """Return an `lstm` RNN with the weights of a hand-written cell of two linear layers.

    Such a cell computes 4·H pre-activations as `i2h(x) + h2h(h)` and splits them into gates in an
    order of its own. Here the rows are put into the order i, f, g, o. The cell's call
    `forward(x, (h, c))` with states (1, B, H) is one time step, `rnn(x[None], (h, c))`.

    Args:
        i2h_weight: The input weights, (4·H, I).
        i2h_bias: The input biases, (4·H,).
        h2h_weight: The recurrent weights, (4·H, H).
        h2h_bias: The recurrent biases, (4·H,).
        gate_order: The gates in the order of the rows, H rows each; g is the candidate.

    Raises:
        ValueError: A shape does not fit, or the order does not hold i, f, g and o once each.

    Example:
        >>> i2h, h2h = torch.nn.Linear(3, 4 * 5), torch.nn.Linear(5, 4 * 5)
        >>> rnn = from_i2h_h2h(i2h.weight, i2h.bias, h2h.weight, h2h.bias)
        >>> rnn
        RNN(lstm, 3, 5)
        >>> torch.equal(rnn.gate_weights()["o"].weight_ih, i2h.weight[10:15])
        True
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
        """Return the rows of a parameter in the order of the gates of `lstm`."""
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
