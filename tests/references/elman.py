"""Simple recurrent networks."""

import numpy as np

from references.common import from_hidden, from_input, reference


@reference(
    "memory",
    lambda i, h: h * (i + h + 2),
    variants=({"nonlinearity": "tanh"}, {"nonlinearity": "relu"}),
)
def elman(x, state, W, U, b, extra):
    """Simple recurrent network; gate ``n``.

    Source: Elman 1990, "Finding Structure in Time", Cognitive Science 14(2),
    doi:10.1207/s15516709cog1402_1. From memory.

        h' = phi(W x + b_input + U h + b_recurrent)

    Conventions: the paper describes the network in words (context units hold a copy of the
    previous hidden units) and fixes no such formula; ``extra["nonlinearity"]`` names phi,
    "tanh" or "relu". The output is the hidden state, without the paper's output layer.
    """
    (h,) = state
    a = from_input("n", x, W, b) + from_hidden("n", h, U, b)
    if extra["nonlinearity"] == "tanh":
        h_new = np.tanh(a)
    elif extra["nonlinearity"] == "relu":
        h_new = np.maximum(a, 0.0)
    else:
        raise ValueError(f"unknown nonlinearity: {extra['nonlinearity']!r}")
    return h_new, (h_new,)
