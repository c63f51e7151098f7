"""Additive, bistable and chaos-free units."""

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid
from references.gru_variants import both


@reference("author's code", lambda i, h: h * (i + h + 1))
def atr(x, state, W, U, b, extra):
    """Addition-subtraction twin-gated network; gate ``p``.

    Source: Zhang et al. 2018, "Simplifying Neural Machine Translation with Addition-Subtraction
    Twin-Gated Recurrent Networks", arXiv 1810.12546, from the first author's code.

        p = W x      q = U h + b
        i = s(p + q)      f = s(p - q)
        h' = i * p + f * h
    """
    h = f64(state[0])
    p = from_input("p", x, W, b)
    q = from_hidden("p", h, U, b)
    h_new = sigmoid(p + q) * p + sigmoid(p - q) * h
    return h_new, (h_new,)


@reference(
    "author's code",
    lambda i, h: h * (3 * i + 2 * h + 3),
    variants=({}, {"nonlinearity": "identity"}),
)
def ran(x, state, W, U, b, extra):
    """Recurrent additive network; gates ``n``, ``i``, ``f``; states h, c.

    Source: Lee, Levy & Zettlemoyer 2017, "Recurrent Additive Networks", arXiv 1705.07393, from the
    authors' code.

        i = s(W_i x + U_i h + b_i)      f = s(W_f x + U_f h + b_f)
        c' = i * (W_n x + b_n) + f * c
        h' = phi(c'), phi tanh or the identity

    Conventions: b_n is added; the code has none.
    """
    h, c = f64(state[0]), f64(state[1])
    i, f = (sigmoid(both(gate, x, h, W, U, b)) for gate in "if")
    c_new = i * from_input("n", x, W, b) + f * c
    h_new = np.tanh(c_new) if extra["nonlinearity"] == "tanh" else c_new
    return h_new, (h_new, c_new)


@reference("secondary source", lambda i, h: h * (3 * i + 2 * h + 3))
def cfn(x, state, W, U, b, extra):
    """Chaos-free network; gates ``theta``, ``eta``, ``n``.

    Source: Laurent & von Brecht 2017, "A recurrent neural network without chaos", arXiv 1612.06212,
    as RecurrentLayers.jl's documentation gives it; agrees with memory.

        theta = s(W_theta x + U_theta h + b_theta)      eta = s(W_eta x + U_eta h + b_eta)
        h' = theta * tanh(h) + eta * tanh(W_n x + b_n)

    Conventions: b_n is added; the source has none.
    """
    h = f64(state[0])
    theta, eta = (sigmoid(both(gate, x, h, W, U, b)) for gate in ("theta", "eta"))
    h_new = theta * np.tanh(h) + eta * np.tanh(from_input("n", x, W, b))
    return h_new, (h_new,)


def bistable(x, h, c, a, W, b):
    """h' = c * h + (1 - c) * tanh(W_n x + b_n + a * h)."""
    return c * h + (1.0 - c) * np.tanh(from_input("n", x, W, b) + a * h)


@reference("author's code", lambda i, h: 3 * h * (i + 1) + 2 * h)
def brc(x, state, W, U, b, extra):
    """Bistable recurrent cell; gates ``c``, ``a``, ``n``.

    Source: Vecoven, Ernst & Drion 2021, "A bio-inspired bistable recurrent cell allows for
    long-lasting memory", arXiv 2006.05252, from the first author's code (there z, r, h).

        c = s(W_c x + u_c * h + b_c)      a = 1 + tanh(W_a x + u_a * h + b_a)
        h' = c * h + (1 - c) * tanh(W_n x + b_n + a * h)

    Conventions: b_n is added; the code has none.
    """
    h = f64(state[0])
    c = sigmoid(from_input("c", x, W, b) + f64(U["c"]) * h)
    a = 1.0 + np.tanh(from_input("a", x, W, b) + f64(U["a"]) * h)
    h_new = bistable(x, h, c, a, W, b)
    return h_new, (h_new,)


@reference("author's code", lambda i, h: 3 * h * (i + 1) + 2 * h * h)
def nbrc(x, state, W, U, b, extra):
    """Neuromodulated bistable recurrent cell: ``brc`` with matrices U_c and U_a.

    Source: Vecoven, Ernst & Drion 2021, arXiv 2006.05252, from the first author's code.
    """
    h = f64(state[0])
    c = sigmoid(both("c", x, h, W, U, b))
    a = 1.0 + np.tanh(both("a", x, h, W, U, b))
    h_new = bistable(x, h, c, a, W, b)
    return h_new, (h_new,)
