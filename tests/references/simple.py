"""Relatives of the simple network: higher order, multiplicative, highway, context units."""

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid
from references.gru_variants import both


@reference("memory", lambda i, h: h * (i + h + 2))
def irnn(x, state, W, U, b, extra):
    """Simple network of rectified linear units; gate ``n``.

    Source: Le, Jaitly & Hinton 2015, "A Simple Way to Initialize Recurrent Networks of Rectified
    Linear Units", arXiv 1504.00941. From memory; its abstract agrees.

        h' = max(0, W x + U h + b)
    """
    h_new = np.maximum(both("n", x, f64(state[0]), W, U, b), 0.0)
    return h_new, (h_new,)


@reference(
    "memory",
    lambda i, h: h * (i + 3 * h + 1),
    variants=({}, {"nonlinearity": "relu"}, {"order": 1}, {"order": 2}),
)
def hornn(x, state, W, U, b, extra):
    """Network of higher order; gate ``n``; the states are h and those 1, 2, … steps before.

    Source: Soltani & Jiang 2016, "Higher Order Recurrent Neural Networks", arXiv 1605.00064. From
    memory; the abstract says that preceding states are fed back through different weighted paths.

        h(t) = phi(W x(t) + U_1 h(t-1) + ... + U_N h(t-N) + b), phi tanh or relu
    """
    earlier = np.concatenate([f64(part) for part in state], axis=-1)
    total = from_input("n", x, W, b) + earlier @ f64(U["n"]).T
    h_new = np.tanh(total) if extra["nonlinearity"] == "tanh" else np.maximum(total, 0.0)
    return h_new, (h_new, *state[:-1])


@reference(
    "secondary source",
    lambda i, h: 2 * h * (i + h + 1),
    variants=({}, {"factor_size": 3}),
)
def multiplicative_rnn(x, state, W, U, b, extra):
    """Multiplicative network; gates ``m`` (the factors) and ``n``.

    Source: Sutskever, Martens & Hinton 2011, "Generating Text with Recurrent Neural Networks",
    ICML. From RecurrentLayers.jl's documentation of its wrapper; agrees with memory.

        m = (W_m x + b_m) * (U_m h)
        h' = tanh(W_n x + U_n m + b_n)

    Conventions: b_m is added; the paper has none there.
    """
    m = from_input("m", x, W, b) * (f64(state[0]) @ f64(U["m"]).T)
    h_new = np.tanh(from_input("n", x, W, b) + m @ f64(U["n"]).T)
    return h_new, (h_new,)


@reference(
    "author's code",
    lambda i, h: 2 * h * i + 6 * h * (h + 1),
    variants=({}, {"depth": 1}, {"coupled": False}, {"coupled": False, "depth": 2}),
)
def rhn(x, state, W, U, b, extra):
    """Recurrent highway network; gates ``n1``, ``t1`` and, uncoupled, ``c1``; then 2, 3, …

    Source: Zilly, Srivastava, Koutnik & Schmidhuber 2017, "Recurrent Highway Networks", arXiv
    1607.03474, from the authors' code (coupled gates); the uncoupled form from memory.

        n_l = tanh(W_n x [l = 1] + U_n_l s + b)      t_l = s(W_t x [l = 1] + U_t_l s + b)
        s <- n_l * t_l + s * (1 - t_l), or s <- n_l * t_l + s * c_l uncoupled

    over the layers l = 1, 2, ..., from s = h; h' is the last s.
    """
    s = f64(state[0])
    for layer in range(1, extra["depth"] + 1):

        def summed(kind, s=s, layer=layer):
            gate = f"{kind}{layer}"
            incoming = from_input(gate, x, W, b) if layer == 1 else 0.0
            return incoming + from_hidden(gate, s, U, b)

        n, t = np.tanh(summed("n")), sigmoid(summed("t"))
        carry = 1.0 - t if extra["coupled"] else sigmoid(summed("c"))
        s = n * t + s * carry
    return s, (s,)


@reference(
    "secondary source",
    lambda i, h: 2 * h * i + 2 * h * h + h,
    variants=({}, {"context_size": 3, "alpha": 0.7}),
)
def scrn(x, state, W, U, b, extra):
    """Network with slow context units; gates ``n``, ``b``; states h, s; the output is both.

    Source: Mikolov, Joulin, Chopra, Mathieu & Ranzato 2015, "Learning Longer Memory in Recurrent
    Neural Networks", arXiv 1412.7753, as theanets' documentation gives it with the paper's names
    (A, B, P, R); agrees with memory.

        s' = (1 - alpha) * B x + alpha * s
        h' = sigmoid(P s' + A x + R h + b)

    Conventions: the bias is added. The paper's output layer reads h' and s', so the output is
    (h', s').

    ``extra``: ``alpha``; ``weight_hs``, P, (hidden, context).
    """
    h, s = f64(state[0]), f64(state[1])
    alpha = extra["alpha"]
    s_new = (1.0 - alpha) * (f64(x) @ f64(W["b"]).T) + alpha * s
    h_new = sigmoid(s_new @ f64(extra["weight_hs"]).T + both("n", x, h, W, U, b))
    return np.concatenate([h_new, s_new], axis=-1), (h_new, s_new)
