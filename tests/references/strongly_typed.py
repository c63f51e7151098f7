"""Strongly typed cells."""

import numpy as np

from references.common import f64, from_input, reference, sigmoid

SOURCE = "secondary source"


@reference(SOURCE, lambda i, h: 2 * h * (i + 1))
def t_rnn(x, state, W, U, b, extra):
    """T-RNN; gates ``z``, ``f``.

    Source: Balduzzi & Ghifary 2016, "Strongly-Typed Recurrent Neural Networks", arXiv 1602.02218.
    Read in the documentation of torchrecurrent's TRNNCell.

        z = W_z x + b_z        f = s(W_f x + b_f)        h' = f * h + (1 - f) * z
    """
    (h,) = state
    f = sigmoid(from_input("f", x, W, b))
    h_new = f * f64(h) + (1.0 - f) * from_input("z", x, W, b)
    return h_new, (h_new,)


def with_the_input_before(x, previous, W, b, extra):
    """The pre-activations W x + V x_before + b of z, f and o, and V x for the next step.

    ``previous`` holds V x_before, z's rows first, then f's, then o's.
    """
    here = {gate: from_input(gate, x, W, b) for gate in "zfo"}
    before = dict(zip("zfo", np.split(f64(previous), 3, axis=-1), strict=True))
    return {gate: here[gate] + before[gate] for gate in "zfo"}, f64(x) @ f64(
        extra["weight_previous"]
    ).T


@reference(SOURCE, lambda i, h: 3 * h * (2 * i + 1))
def t_gru(x, state, W, U, b, extra):
    """T-GRU; gates ``z``, ``f``, ``o``; the state ``previous`` is V x of the step before.

    Source: as `t_rnn`, there TGRUCell.

        z = W_z x + V_z x_before + b_z        f = s(W_f x + V_f x_before + b_f)
        o = tanh(W_o x + V_o x_before + b_o)
        h' = f * h + z * o
    """
    h, previous = state
    a, following = with_the_input_before(x, previous, W, b, extra)
    h_new = sigmoid(a["f"]) * f64(h) + a["z"] * np.tanh(a["o"])
    return h_new, (h_new, following)


@reference(SOURCE, lambda i, h: 3 * h * (2 * i + 1))
def t_lstm(x, state, W, U, b, extra):
    """T-LSTM; gates ``z``, ``f``, ``o``; the state ``previous`` is V x of the step before.

    Source: as `t_rnn`, there RecurrentLayers.jl's page of TLSTM.

        z = W_z x + V_z x_before + b_z        f = s(W_f x + V_f x_before + b_f)
        o = tanh(W_o x + V_o x_before + b_o)
        c' = f * c + (1 - f) * z
        output = c' * o
    """
    c, previous = state
    a, following = with_the_input_before(x, previous, W, b, extra)
    f = sigmoid(a["f"])
    c_new = f * f64(c) + (1.0 - f) * a["z"]
    return c_new * np.tanh(a["o"]), (c_new, following)
