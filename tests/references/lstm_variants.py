"""The LSTM of Greff et al. and its eight variants, each less or more one part."""

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid

SOURCE = "secondary source"


def vanilla(x, state, W, U, b, extra, without=(), linear=(), coupled=False):
    """The vanilla LSTM, less the gates `without` and the squashing functions `linear`.

    Source: Greff, Srivastava, Koutnik, Steunebrink & Schmidhuber 2015, "LSTM: A Search Space
    Odyssey", arXiv 1503.04069, sections II and III. Read in the public TensorFlow code of
    fomorians/lstm-odyssey (variants cifg, fgr, niaf, nog), not in the paper's own text.

        g = tanh(W_g x + U_g h + b_g)
        i = s(W_i x + U_i h + p_i * c + b_i)       f = s(W_f x + U_f h + p_f * c + b_f)
        c' = i * g + f * c
        o = s(W_o x + U_o h + p_o * c' + b_o)      h' = o * tanh(c')

    The paper's block input z is called g. A gate that is left out is 1 and has no parameters.
    """
    h, c = f64(state[0]), f64(state[1])

    def gate(name, cell):
        if name in without:
            return 1.0
        a = from_input(name, x, W, b) + from_hidden(name, h, U, b)
        if f"peephole_{name}" in extra:
            a = a + f64(extra[f"peephole_{name}"]) * cell
        return sigmoid(a)

    g = from_input("g", x, W, b) + from_hidden("g", h, U, b)
    g = g if "g" in linear else np.tanh(g)
    i = gate("i", c)
    f = 1.0 - i if coupled else gate("f", c)
    c_new = i * g + f * c
    h_new = gate("o", c_new) * (c_new if "h" in linear else np.tanh(c_new))
    return h_new, (h_new, c_new)


def parameters(gates, peepholes):
    """The count of a variant with so many gates (g included) and peepholes."""
    return lambda i, h: gates * h * (i + h + 2) + peepholes * h


@reference(SOURCE, parameters(3, 2))
def greff_nig(x, state, W, U, b, extra):
    """No input gate: i = 1. See `vanilla`."""
    return vanilla(x, state, W, U, b, extra, without="i")


@reference(SOURCE, parameters(3, 2))
def greff_nfg(x, state, W, U, b, extra):
    """No forget gate: f = 1. See `vanilla`."""
    return vanilla(x, state, W, U, b, extra, without="f")


@reference(SOURCE, parameters(3, 2))
def greff_nog(x, state, W, U, b, extra):
    """No output gate: o = 1. See `vanilla`."""
    return vanilla(x, state, W, U, b, extra, without="o")


@reference(SOURCE, parameters(4, 3))
def greff_niaf(x, state, W, U, b, extra):
    """No input activation function: g = W_g x + U_g h + b_g. See `vanilla`."""
    return vanilla(x, state, W, U, b, extra, linear="g")


@reference(SOURCE, parameters(4, 3))
def greff_noaf(x, state, W, U, b, extra):
    """No output activation function: h' = o * c'. See `vanilla`."""
    return vanilla(x, state, W, U, b, extra, linear="h")


@reference(SOURCE, parameters(4, 0))
def greff_np(x, state, W, U, b, extra):
    """No peepholes. See `vanilla`."""
    assert not any(name.startswith("peephole") for name in extra)
    return vanilla(x, state, W, U, b, extra)


@reference(SOURCE, parameters(3, 2))
def greff_cifg(x, state, W, U, b, extra):
    """Coupled input and forget gate: f = 1 - i, i seeing c and o seeing c'. See `vanilla`."""
    return vanilla(x, state, W, U, b, extra, coupled=True)


@reference(SOURCE, lambda i, h: 4 * h * (i + h + 2) + 3 * h + 9 * h * h)
def greff_fgr(x, state, W, U, b, extra):
    """Full gate recurrence: every gate sees the three gates of the step before.

    Source: as `vanilla`, there variants/fgr.py.

        i = s(W_i x + R_i h + R_ii i_old + R_fi f_old + R_oi o_old + p_i * c + b_i), f likewise
        o = s(W_o x + R_o h + R_io i_old + R_fo f_old + R_oo o_old + p_o * c' + b_o)

    ``U[gate]`` of i, f and o is the row [R_h, R_i, R_f, R_o] over the operands h, i, f, o; g sees
    h alone. The states i, f and o are the gates' values after the logistic sigmoid.
    """
    h, c, i_old, f_old, o_old = (f64(s) for s in state)
    before = np.concatenate([h, i_old, f_old, o_old], axis=-1)
    p_i, p_f, p_o = (f64(extra[f"peephole_{gate}"]) for gate in "ifo")
    g = np.tanh(from_input("g", x, W, b) + from_hidden("g", h, U, b))
    i = sigmoid(from_input("i", x, W, b) + from_hidden("i", before, U, b) + p_i * c)
    f = sigmoid(from_input("f", x, W, b) + from_hidden("f", before, U, b) + p_f * c)
    c_new = i * g + f * c
    o = sigmoid(from_input("o", x, W, b) + from_hidden("o", before, U, b) + p_o * c_new)
    h_new = o * np.tanh(c_new)
    return h_new, (h_new, c_new, i, f, o)
