"""Variants of the GRU: fewer gates, other gates, mutations."""

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid


def both(gate, x, h, W, U, b):
    """W x + U h and both biases of one gate."""
    return from_input(gate, x, W, b) + from_hidden(gate, h, U, b)


def bias_alone(gate, b):
    """The sum of a gate's pair of biases."""
    return f64(b[gate][0]) + f64(b[gate][1])


def mixed(z, h, n):
    """(1 - z) * h + z * n."""
    return (1.0 - z) * h + z * n


@reference("memory", lambda i, h: h * (i + 3 * h + 3))
def gru1(x, state, W, U, b, extra):
    """GRU whose gates see the state and a bias; gates ``r``, ``z``, ``n``.

    Source: Dey & Salem 2017, "Gate-Variants of Gated Recurrent Unit (GRU) Neural Networks", arXiv
    1701.05923, variant GRU1. From memory; only the abstract was found.

        r = s(U_r h + b_r)      z = s(U_z h + b_z)
        n = tanh(W x + U_n (r * h) + b_n)
        h' = (1 - z) * h + z * n

    Conventions: z near 1 overwrites, as in the paper's equation of the state.
    """
    h = f64(state[0])
    r = sigmoid(from_hidden("r", h, U, b))
    z = sigmoid(from_hidden("z", h, U, b))
    h_new = mixed(z, h, np.tanh(both("n", x, r * h, W, U, b)))
    return h_new, (h_new,)


@reference("memory", lambda i, h: h * (i + 3 * h + 1))
def gru2(x, state, W, U, b, extra):
    """GRU whose gates see the state alone: ``gru1`` without b_r and b_z.

    Source: Dey & Salem 2017, arXiv 1701.05923, variant GRU2. From memory.

        r = s(U_r h)      z = s(U_z h)      the rest as in ``gru1``
    """
    h = f64(state[0])
    r, z = sigmoid(h @ f64(U["r"]).T), sigmoid(h @ f64(U["z"]).T)
    h_new = mixed(z, h, np.tanh(both("n", x, r * h, W, U, b)))
    return h_new, (h_new,)


@reference("memory", lambda i, h: h * (i + h + 3))
def gru3(x, state, W, U, b, extra):
    """GRU whose gates are biases alone.

    Source: Dey & Salem 2017, arXiv 1701.05923, variant GRU3. From memory.

        r = s(b_r)      z = s(b_z)      the rest as in ``gru1``

    ``extra``: ``bias_r``, ``bias_z``, each (hidden,).
    """
    h = f64(state[0])
    r, z = sigmoid(f64(extra["bias_r"])), sigmoid(f64(extra["bias_z"]))
    h_new = mixed(z, h, np.tanh(both("n", x, r * h, W, U, b)))
    return h_new, (h_new,)


@reference("secondary source", lambda i, h: 2 * h * (i + h + 1))
def mgu(x, state, W, U, b, extra):
    """Minimal gated unit; gates ``f``, ``n``.

    Source: Zhou, Wu, Zhang & Zhou 2016, "Minimal Gated Unit for Recurrent Neural Networks", arXiv
    1603.09420, as RecurrentLayers.jl's documentation gives it; agrees with memory.

        f = s(W_f x + U_f h + b_f)
        n = tanh(W_n x + U_n (f * h) + b_n)
        h' = (1 - f) * h + f * n
    """
    h = f64(state[0])
    f = sigmoid(both("f", x, h, W, U, b))
    h_new = mixed(f, h, np.tanh(both("n", x, f * h, W, U, b)))
    return h_new, (h_new,)


@reference("memory", lambda i, h: h * (i + 2 * h + 2))
def mgu1(x, state, W, U, b, extra):
    """``mgu`` whose gate sees the state and a bias.

    Source: Heck & Salem 2017, "Simplified Minimal Gated Unit Variations for Recurrent Neural
    Networks", arXiv 1701.03452, variant MGU1. From memory; the abstract was found, which says
    that only the gate's equation is reduced.

        f = s(U_f h + b_f)      the rest as in ``mgu``
    """
    h = f64(state[0])
    f = sigmoid(from_hidden("f", h, U, b))
    h_new = mixed(f, h, np.tanh(both("n", x, f * h, W, U, b)))
    return h_new, (h_new,)


@reference("memory", lambda i, h: h * (i + 2 * h + 1))
def mgu2(x, state, W, U, b, extra):
    """``mgu`` whose gate sees the state alone.

    Source: Heck & Salem 2017, arXiv 1701.03452, variant MGU2. From memory.

        f = s(U_f h)      the rest as in ``mgu``
    """
    h = f64(state[0])
    f = sigmoid(h @ f64(U["f"]).T)
    h_new = mixed(f, h, np.tanh(both("n", x, f * h, W, U, b)))
    return h_new, (h_new,)


@reference("memory", lambda i, h: h * (i + h + 2))
def mgu3(x, state, W, U, b, extra):
    """``mgu`` whose gate is a bias alone.

    Source: Heck & Salem 2017, arXiv 1701.03452, variant MGU3. From memory.

        f = s(b_f)      the rest as in ``mgu``

    ``extra``: ``bias_f``, (hidden,).
    """
    h = f64(state[0])
    f = sigmoid(f64(extra["bias_f"]))
    h_new = mixed(f, h, np.tanh(both("n", x, f * h, W, U, b)))
    return h_new, (h_new,)


def fitted(x, extra):
    """x, or where it is not as wide as the state its image under ``weight_fit``."""
    fit = extra.get("weight_fit")
    return f64(x) if fit is None else f64(x) @ f64(fit).T


def fit_size(i, h):
    """The number of elements of ``weight_fit``."""
    return 0 if i == h else i * h


@reference("secondary source", lambda i, h: 2 * h * i + 2 * h * h + 4 * h + fit_size(i, h))
def mut1(x, state, W, U, b, extra):
    """The first mutated unit; gates ``z``, ``r``, ``n``.

    Source: Jozefowicz, Zaremba & Sutskever 2015, "An Empirical Exploration of Recurrent Network
    Architectures", ICML, PMLR 37:2342. From RecurrentLayers.jl's documentation, but with tanh(x)
    for its tanh of a projection with a bias, as remembered from the paper.

        z = s(W_z x + b_z)
        r = s(W_r x + U_r h + b_r)
        h' = tanh(U_n (r * h) + tanh(x) + b_n) * z + h * (1 - z)

    Conventions: where x is not as wide as h, x in tanh(x) is V x, ``extra["weight_fit"]``.
    """
    h = f64(state[0])
    z = sigmoid(from_input("z", x, W, b))
    r = sigmoid(both("r", x, h, W, U, b))
    n = np.tanh(from_hidden("n", r * h, U, b) + np.tanh(fitted(x, extra)))
    h_new = mixed(z, h, n)
    return h_new, (h_new,)


@reference("memory", lambda i, h: 2 * h * i + 3 * h * h + 3 * h + fit_size(i, h))
def mut2(x, state, W, U, b, extra):
    """The second mutated unit; gates ``z``, ``r``, ``n``.

    Source: Jozefowicz, Zaremba & Sutskever 2015, PMLR 37:2342. From memory.

        z = s(W_z x + U_z h + b_z)
        r = s(x + U_r h + b_r)
        h' = tanh(U_n (r * h) + W_n x + b_n) * z + h * (1 - z)

    Conventions: where x is not as wide as h, x in r is V x, ``extra["weight_fit"]``.
    """
    h = f64(state[0])
    z = sigmoid(both("z", x, h, W, U, b))
    r = sigmoid(fitted(x, extra) + from_hidden("r", h, U, b))
    h_new = mixed(z, h, np.tanh(both("n", x, r * h, W, U, b)))
    return h_new, (h_new,)


@reference("memory", lambda i, h: 3 * h * (i + h + 1))
def mut3(x, state, W, U, b, extra):
    """The third mutated unit; gates ``z``, ``r``, ``n``.

    Source: Jozefowicz, Zaremba & Sutskever 2015, PMLR 37:2342. From memory.

        z = s(W_z x + U_z tanh(h) + b_z)
        r = s(W_r x + U_r h + b_r)
        h' = tanh(U_n (r * h) + W_n x + b_n) * z + h * (1 - z)
    """
    h = f64(state[0])
    z = sigmoid(both("z", x, np.tanh(h), W, U, b))
    r = sigmoid(both("r", x, h, W, U, b))
    h_new = mixed(z, h, np.tanh(both("n", x, r * h, W, U, b)))
    return h_new, (h_new,)


@reference("memory", lambda i, h: 4 * h * (i + h + 1) + h)
def ur_gru(x, state, W, U, b, extra):
    """GRU with uniform gate initialisation and a refine gate; ``r``, ``z``, ``refine``, ``n``.

    Source: Gu, Gulcehre, Paine, Hoffman & Pascanu 2020, "Improving the Gating Mechanism of
    Recurrent Neural Networks", arXiv 1910.09890. From memory of the paper's pseudo-code of the
    UR-LSTM, whose forget gate's bias enters the refine gate with the opposite sign; the refined
    gate agrees with the author's later code (module of flexible gates), which has no bias in the
    refine gate.

        f = s(W_z x + U_z h + b_z + b_u)
        q = s(W_refine x + U_refine h + b_refine - b_u)
        g = q * (1 - (1 - f)^2) + (1 - q) * f^2
        r = s(W_r x + U_r h + b_r)
        n = tanh(W_n x + U_n (r * h) + b_n)
        h' = g * h + (1 - g) * n

    Conventions: g keeps, like the forget gate that the paper refines. This function first had it
    overwrite, as the GRU's z in that later code does; the two are one family, since the refined
    gate of 1 - f and 1 - q is 1 - g.

    ``extra``: ``bias_u``, (hidden,).
    """
    h = f64(state[0])
    b_u = f64(extra["bias_u"])
    f = sigmoid(both("z", x, h, W, U, b) + b_u)
    q = sigmoid(both("refine", x, h, W, U, b) - b_u)
    g = q * (1.0 - (1.0 - f) ** 2) + (1.0 - q) * f**2
    r = sigmoid(both("r", x, h, W, U, b))
    h_new = mixed(1.0 - g, h, np.tanh(both("n", x, r * h, W, U, b)))
    return h_new, (h_new,)


@reference(
    "secondary source",
    lambda i, h: 2 * h * (i + h + 1),
    variants=({}, {"update_coefficient": 0.8}),
)
def miru1(x, state, W, U, b, extra):
    """Minion gated unit with a reset gate; gates ``r``, ``n``.

    Source: Zyarah & Kudithipudi 2025, "Minion Gated Recurrent Unit for Continual Learning", arXiv
    2503.06175, as torchrecurrent's documentation gives it.

        r = s(W_r x + U_r h + b_r)
        n = tanh(W_n x + U_n (r * h) + b_n)
        h' = lambda * h + (1 - lambda) * n

    ``extra``: ``update_coefficient``, lambda.
    """
    h, kept = f64(state[0]), extra["update_coefficient"]
    r = sigmoid(both("r", x, h, W, U, b))
    h_new = kept * h + (1.0 - kept) * np.tanh(both("n", x, r * h, W, U, b))
    return h_new, (h_new,)


@reference(
    "secondary source",
    lambda i, h: h * (i + h + 1),
    variants=({}, {"update_coefficient": 0.8, "reset_coefficient": 0.3}),
)
def miru2(x, state, W, U, b, extra):
    """Minion gated unit without gates; gate ``n``.

    Source: Zyarah & Kudithipudi 2025, arXiv 2503.06175, as torchrecurrent's documentation gives
    it; beta is called theta there.

        n = tanh(W x + U (beta * h) + b)
        h' = lambda * h + (1 - lambda) * n

    ``extra``: ``update_coefficient``, lambda, and ``reset_coefficient``, beta.
    """
    h, kept = f64(state[0]), extra["update_coefficient"]
    n = np.tanh(both("n", x, extra["reset_coefficient"] * h, W, U, b))
    h_new = kept * h + (1.0 - kept) * n
    return h_new, (h_new,)
