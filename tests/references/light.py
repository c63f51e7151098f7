"""Light and fast gated units, and those made for depth."""

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid, standardise
from references.gru_variants import both, fit_size, fitted, mixed


def normalised(x, W, b, extra):
    """The projections of ``n`` and ``z`` under batch normalisation with running statistics."""
    wx = f64(x) @ np.concatenate([f64(W["n"]), f64(W["z"])]).T
    mean, variance = f64(extra["running_mean"]), f64(extra["running_var"])
    shift = np.concatenate([f64(b["n"][0]), f64(b["z"][0])])
    scaled = (wx - mean) / np.sqrt(variance + extra["eps"]) * f64(extra["gain_ih"]) + shift
    return np.split(scaled, 2, axis=-1)


@reference("author's code", lambda i, h: 2 * h * (i + h + 2), variants=({}, {"eps": 0.1}))
def ligru(x, state, W, U, b, extra):
    """Light gated recurrent unit, in evaluation; gates ``n``, ``z``.

    Source: Ravanelli, Brakel, Omologo & Bengio 2018, "Light Gated Recurrent Units for Speech
    Recognition", arXiv 1803.10225, in the form of the authors' SpeechBrain: one batch
    normalisation over the projections of both gates.

        (a_n, a_z) = BN((W_n x, W_z x)) + (U_n h, U_z h)
        z = s(a_z)      n = relu(a_n)
        h' = z * h + (1 - z) * n

    Conventions: BN uses the running mean and variance, its shift is the gates' input bias.

    ``extra``: ``running_mean``, ``running_var``, ``gain_ih``, each (2 * hidden,), and ``eps``.
    """
    h = f64(state[0])
    a_n, a_z = normalised(x, W, b, extra)
    z = sigmoid(a_z + h @ f64(U["z"]).T)
    n = np.maximum(a_n + h @ f64(U["n"]).T, 0.0)
    h_new = mixed(1.0 - z, h, n)
    return h_new, (h_new,)


@reference("author's code", lambda i, h: 2 * h * (i + h + 2), variants=({}, {"eps": 0.1}))
def sligru(x, state, W, U, b, extra):
    """Stabilised light gated recurrent unit, in evaluation; gates ``n``, ``z``.

    Source: Moumen & Parcollet 2023, "Stabilising and accelerating light gated recurrent units for
    automatic speech recognition", arXiv 2302.10144, from the first author's fork of SpeechBrain:
    a layer normalisation over the recurrent projections of both gates.

        (a_n, a_z) = BN((W_n x, W_z x)) + LN((U_n h, U_z h))      the rest as in ``ligru``

    Conventions: LN has no gain and no shift of its own (from memory; the line that builds it was
    not found), and the same eps as BN.
    """
    h = f64(state[0])
    a_n, a_z = normalised(x, W, b, extra)
    uh = standardise(h @ np.concatenate([f64(U["n"]), f64(U["z"])]).T, extra["eps"])
    u_n, u_z = np.split(uh, 2, axis=-1)
    z = sigmoid(a_z + u_z)
    h_new = mixed(1.0 - z, h, np.maximum(a_n + u_n, 0.0))
    return h_new, (h_new,)


@reference("secondary source", lambda i, h: 2 * h * (i + 1) + h * h)
def light_ru(x, state, W, U, b, extra):
    """Light recurrent unit; gates ``n``, ``f``.

    Source: Ye et al. 2024, "Light Recurrent Unit", Electronics 13(16):3204, as RecurrentLayers.jl's
    documentation gives it.

        n = tanh(W_n x + b_n)
        f = s(W_f x + U_f h + b_f)
        h' = (1 - f) * h + f * n

    Conventions: b_n is added; the source has none.
    """
    h = f64(state[0])
    f = sigmoid(both("f", x, h, W, U, b))
    h_new = mixed(f, h, np.tanh(from_input("n", x, W, b)))
    return h_new, (h_new,)


@reference("secondary source", lambda i, h: h * (i + 2 * h + 2))
def minimal_rnn(x, state, W, U, b, extra):
    """MinimalRNN; gates ``z`` and ``u``.

    Source: Chen 2017, "MinimalRNN: Toward More Interpretable and Trainable Recurrent Neural
    Networks", arXiv 1711.06788, as RecurrentLayers.jl's documentation gives it; agrees with memory.

        z = tanh(W_z x + b_z)
        u = s(U_u h + V z + b_u)
        h' = u * h + (1 - u) * z

    ``extra``: ``weight_uz``, V, (hidden, hidden).
    """
    h = f64(state[0])
    z = np.tanh(from_input("z", x, W, b))
    u = sigmoid(from_hidden("u", h, U, b) + z @ f64(extra["weight_uz"]).T)
    h_new = mixed(1.0 - u, h, z)
    return h_new, (h_new,)


@reference("secondary source", lambda i, h: 2 * h * (i + 1) + h * h)
def star(x, state, W, U, b, extra):
    """Stackable recurrent cell; gates ``z``, ``k``.

    Source: Turkoglu, D'Aronco, Wegner & Schindler 2021, "Gating Revisited: Deep Multi-layer RNNs
    That Can Be Trained", arXiv 1911.11033, as torchrecurrent's documentation gives it; a public
    re-implementation that keeps the authors' names swaps k and 1 - k.

        z = tanh(W_z x + b_z)
        k = s(W_k x + U_k h + b_k)
        h' = tanh((1 - k) * h + k * z)
    """
    h = f64(state[0])
    k = sigmoid(both("k", x, h, W, U, b))
    h_new = np.tanh(mixed(k, h, np.tanh(from_input("z", x, W, b))))
    return h_new, (h_new,)


@reference("author's code", lambda i, h: 2 * h * (i + h + 1))
def ugrnn(x, state, W, U, b, extra):
    """Update gate network; gates ``c``, ``g``.

    Source: Collins, Sohl-Dickstein & Sussillo 2017, "Capacity and Trainability in Recurrent Neural
    Networks", arXiv 1611.09913, as in TensorFlow's contrib UGRNNCell.

        c = tanh(W_c x + U_c h + b_c)      g = s(W_g x + U_g h + b_g)
        h' = g * h + (1 - g) * c

    Conventions: that code adds a constant of 1 to g's sum; here it is part of b_g.
    """
    h = f64(state[0])
    g = sigmoid(both("g", x, h, W, U, b))
    h_new = mixed(1.0 - g, h, np.tanh(both("c", x, h, W, U, b)))
    return h_new, (h_new,)


@reference("author's code", lambda i, h: 4 * h * (i + h + 1) + fit_size(i, h))
def intersection_rnn(x, state, W, U, b, extra):
    """Intersection network; gates ``y``, ``n``, ``gy``, ``gh``; its output is not its state.

    Source: Collins, Sohl-Dickstein & Sussillo 2017, arXiv 1611.09913, as in TensorFlow's contrib
    IntersectionRNNCell.

        y = relu(W_y x + U_y h + b_y)        n = tanh(W_n x + U_n h + b_n)
        g_y = s(W_gy x + U_gy h + b_gy)      g_h = s(W_gh x + U_gh h + b_gh)
        h' = g_h * h + (1 - g_h) * n
        output = g_y * x + (1 - g_y) * y

    Conventions: the constants of 1 that the code adds to the gates are part of the biases. Where
    x is not as wide as h, x in the output is V x, ``extra["weight_fit"]``, and the gates see x
    itself; the code projects x for both, with a bias.
    """
    h = f64(state[0])
    y = np.maximum(both("y", x, h, W, U, b), 0.0)
    n = np.tanh(both("n", x, h, W, U, b))
    g_y = sigmoid(both("gy", x, h, W, U, b))
    g_h = sigmoid(both("gh", x, h, W, U, b))
    return g_y * fitted(x, extra) + (1.0 - g_y) * y, (g_h * h + (1.0 - g_h) * n,)


@reference("secondary source", lambda i, h: h * (i + h + 1))
def sgrn(x, state, W, U, b, extra):
    """Simplified gated network; gate ``f``.

    Source: Zu et al. 2020, doi:10.1049/gtd2.12056, as torchrecurrent's documentation gives it.

        f = s(W x + U h + b)
        h' = tanh((1 - f) * (W x) + f * h)

    Conventions: one bias, that of the gate; the source adds its input bias to W x in h' too.
    """
    h = f64(state[0])
    wx = f64(x) @ f64(W["f"]).T
    f = sigmoid(both("f", x, h, W, U, b))
    h_new = np.tanh((1.0 - f) * wx + f * h)
    return h_new, (h_new,)


def hard_sigmoid(a):
    """max(0, min(1, a / 5 + 1/2)), as Theano and Keras of the paper's time have it."""
    return np.clip(0.2 * a + 0.5, 0.0, 1.0)


@reference("secondary source", lambda i, h: 2 * h * (i + h + 1))
def sgu(x, state, W, U, b, extra):
    """Simple gated unit; gates ``g``, ``z``.

    Source: Gao & Glowacka 2016, "Deep Gate Recurrent Neural Network", arXiv 1604.02910, as an issue
    of torchrecurrent (number 39) transcribes it; the functions from its documentation.

        x_g = W_g x + b_g
        z_g = tanh(U_g (x_g * h))
        z_out = softplus(z_g * h)
        z = hard_sigmoid(W_z x + U_z h + b_z)
        h' = (1 - z) * h + z * z_out
    """
    h = f64(state[0])
    z_g = np.tanh((from_input("g", x, W, b) * h) @ f64(U["g"]).T)
    z = hard_sigmoid(both("z", x, h, W, U, b))
    h_new = mixed(z, h, np.logaddexp(0.0, z_g * h))
    return h_new, (h_new,)


@reference("secondary source", lambda i, h: h * (2 * i + 3 * h + 2))
def dsgu(x, state, W, U, b, extra):
    """Deep simple gated unit; gates ``g``, ``z``, ``o``.

    Source: Gao & Glowacka 2016, arXiv 1604.02910, as for ``sgu``.

        z_out = s(U_o (z_g * h))      the rest as in ``sgu``
    """
    h = f64(state[0])
    z_g = np.tanh((from_input("g", x, W, b) * h) @ f64(U["g"]).T)
    z = hard_sigmoid(both("z", x, h, W, U, b))
    h_new = mixed(z, h, sigmoid((z_g * h) @ f64(U["o"]).T))
    return h_new, (h_new,)


def fast_product(x, h, W, U, extra):
    """W x + U h, U being one matrix or a product of two of low rank."""
    low = extra["rank"]
    matrix = f64(extra["weight_hh_1"]) @ f64(extra["weight_hh_2"]) if low else f64(U["n"])
    return f64(x) @ f64(W["n"]).T + h @ matrix.T


@reference("author's code", lambda i, h: h * (i + h + 1) + 2, variants=({}, {"rank": 2}))
def fastrnn(x, state, W, U, b, extra):
    """FastRNN; gate ``n``.

    Source: Kusupati et al. 2018, "FastGRNN", arXiv 1901.02358, from the authors' EdgeML.

        n = tanh(W x + U h + b)
        h' = s(alpha) * n + s(beta) * h

    ``extra``: ``alpha``, ``beta``, each (1,); ``rank`` and, where it is not 0, ``weight_hh_1``
    and ``weight_hh_2``, whose product is U.
    """
    h = f64(state[0])
    n = np.tanh(fast_product(x, h, W, U, extra) + f64(b["n"][0]))
    h_new = sigmoid(f64(extra["alpha"])) * n + sigmoid(f64(extra["beta"])) * h
    return h_new, (h_new,)


@reference("author's code", lambda i, h: h * (i + h + 2) + 2, variants=({}, {"rank": 2}))
def fastgrnn(x, state, W, U, b, extra):
    """FastGRNN; gate ``n``, whose weights make z as well.

    Source: Kusupati et al. 2018, arXiv 1901.02358, from the authors' EdgeML.

        z = s(W x + U h + b_z)      n = tanh(W x + U h + b_n)
        h' = (s(zeta) * (1 - z) + s(nu)) * n + z * h

    ``extra``: ``zeta``, ``nu``, each (1,), ``bias_z``, ``bias_n``, and as for ``fastrnn``.
    """
    h = f64(state[0])
    both_gates = fast_product(x, h, W, U, extra)
    z = sigmoid(both_gates + f64(extra["bias_z"]))
    n = np.tanh(both_gates + f64(extra["bias_n"]))
    new = sigmoid(f64(extra["zeta"])) * (1.0 - z) + sigmoid(f64(extra["nu"]))
    h_new = new * n + z * h
    return h_new, (h_new,)
