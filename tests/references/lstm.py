"""The LSTM and its variants."""

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid, standardise


@reference("memory", lambda i, h: 4 * h * (i + h + 2))
def lstm(x, state, W, U, b, extra):
    """LSTM with forget gate and without peepholes; gates ``i``, ``f``, ``g``, ``o``.

    Sources: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory", Neural Computation 9(8),
    doi:10.1162/neco.1997.9.8.1735; the forget gate from Gers, Schmidhuber & Cummins 2000,
    "Learning to Forget", Neural Computation 12(10), doi:10.1162/089976600300015015. From memory;
    agrees with the equations commonly quoted from PyTorch's LSTM (found second-hand).

        i = s(W_i x + U_i h + b_i)        f = s(W_f x + U_f h + b_f)
        g = tanh(W_g x + U_g h + b_g)     o = s(W_o x + U_o h + b_o)
        c' = f * c + i * g
        h' = o * tanh(c')

    Conventions: one cell a memory block; both squashing functions are tanh, where the papers
    use rescaled logistic functions.
    """
    h, c = state
    i = sigmoid(from_input("i", x, W, b) + from_hidden("i", h, U, b))
    f = sigmoid(from_input("f", x, W, b) + from_hidden("f", h, U, b))
    g = np.tanh(from_input("g", x, W, b) + from_hidden("g", h, U, b))
    o = sigmoid(from_input("o", x, W, b) + from_hidden("o", h, U, b))
    c_new = f * f64(c) + i * g
    h_new = o * np.tanh(c_new)
    return h_new, (h_new, c_new)


@reference("memory", lambda i, h: 4 * h * (i + h + 2) + 3 * h)
def peephole_lstm(x, state, W, U, b, extra):
    """LSTM with peephole connections; gates ``i``, ``f``, ``g``, ``o``.

    Source: Gers, Schraudolph & Schmidhuber 2002, "Learning Precise Timing with LSTM Recurrent
    Networks", JMLR 3:115-143. Equations from memory (only the abstract was found); which gate
    sees which cell state agrees with TensorFlow's LSTMBlockCell and OpenVINO's LSTMCell pages.

        i = s(W_i x + U_i h + p_i * c + b_i)
        f = s(W_f x + U_f h + p_f * c + b_f)
        g = tanh(W_g x + U_g h + b_g)
        c' = f * c + i * g
        o = s(W_o x + U_o h + p_o * c' + b_o)
        h' = o * tanh(c')

    Conventions: one cell a memory block, so that each peephole is a vector:
    ``extra["peephole_i"]``, ``extra["peephole_f"]``, ``extra["peephole_o"]``, each (hidden,).
    The output squashing is tanh, as in Greff et al. 2015 (arXiv 1503.04069, from memory); the
    2002 paper, as remembered, leaves the output squashing out (h' = o * c').
    """
    h, c = state
    c = f64(c)
    p_i, p_f, p_o = (f64(extra[f"peephole_{gate}"]) for gate in "ifo")
    i = sigmoid(from_input("i", x, W, b) + from_hidden("i", h, U, b) + p_i * c)
    f = sigmoid(from_input("f", x, W, b) + from_hidden("f", h, U, b) + p_f * c)
    g = np.tanh(from_input("g", x, W, b) + from_hidden("g", h, U, b))
    c_new = f * c + i * g
    o = sigmoid(from_input("o", x, W, b) + from_hidden("o", h, U, b) + p_o * c_new)
    h_new = o * np.tanh(c_new)
    return h_new, (h_new, c_new)


@reference("memory", lambda i, h: 3 * h * (i + h + 2))
def cifg_lstm(x, state, W, U, b, extra):
    """LSTM with coupled input and forget gate; gates ``i``, ``g``, ``o``.

    Source: Greff, Srivastava, Koutnik, Steunebrink & Schmidhuber 2015, "LSTM: A Search Space
    Odyssey", arXiv 1503.04069, variant CIFG. From memory.

        i = s(W_i x + U_i h + b_i)
        f = 1 - i
        g = tanh(W_g x + U_g h + b_g)
        o = s(W_o x + U_o h + b_o)
        c' = f * c + i * g
        h' = o * tanh(c')

    Conventions: without peepholes, which the paper's CIFG variant keeps; the paper's block
    input z is called g here.
    """
    h, c = state
    i = sigmoid(from_input("i", x, W, b) + from_hidden("i", h, U, b))
    f = 1.0 - i
    g = np.tanh(from_input("g", x, W, b) + from_hidden("g", h, U, b))
    o = sigmoid(from_input("o", x, W, b) + from_hidden("o", h, U, b))
    c_new = f * f64(c) + i * g
    h_new = o * np.tanh(c_new)
    return h_new, (h_new, c_new)


@reference("memory", lambda i, h: 4 * h * (i + h + 1) + 2 * 4 * h + 2 * h)
def layernorm_lstm(x, state, W, U, b, extra):
    """LSTM with layer normalisation; gates ``i``, ``f``, ``g``, ``o``.

    Source: Ba, Kiros & Hinton 2016, "Layer Normalization", arXiv 1607.06450, supplementary
    material, LSTM equations (20) to (22). From memory; agrees with the transcription of these
    equations in a public repository's reading notes, not with the paper's own text.

        (f, i, o, g) = LN(U h; alpha_1, beta_1) + LN(W x; alpha_2, beta_2) + b
        c' = s(f) * c + s(i) * tanh(g)
        h' = s(o) * tanh(LN(c'; alpha_3, beta_3))
        LN(z; alpha, beta) = (z - mean(z)) / sqrt(var(z)) * alpha + beta

    Conventions: U h and W x are each normalised over all 4 * hidden values of the four gates
    together. The gates lie in the order i, f, g, o in the gains, which only permutes the paper's
    order (mean and variance do not depend on it). beta_1, beta_2 and b enter only by their sum,
    so there is one bias: ``b[gate] = (that sum, zeros)``, added after the normalisation. The
    variance is the biased one and eps is added to it inside the square root (the paper writes no
    eps). The carried c' is not normalised.

    ``extra``: ``gain_hh`` (alpha_1) and ``gain_ih`` (alpha_2), each (4 * hidden,); ``gain_c``
    (alpha_3) and ``bias_c`` (beta_3), each (hidden,); ``eps``, 1e-5 where it is not given.
    """
    h, c = state
    h, c, x = f64(h), f64(c), f64(x)
    eps = float(extra.get("eps", 1e-5))
    order = ("i", "f", "g", "o")

    # The biases come after the normalisation, so these are the bare products.
    recurrent = np.concatenate([h @ f64(U[gate]).T for gate in order], axis=-1)
    incoming = np.concatenate([x @ f64(W[gate]).T for gate in order], axis=-1)
    recurrent = standardise(recurrent, eps) * f64(extra["gain_hh"])
    incoming = standardise(incoming, eps) * f64(extra["gain_ih"])

    hidden = h.shape[-1]
    a = {}
    for k, gate in enumerate(order):
        part = slice(k * hidden, (k + 1) * hidden)
        bias = f64(b[gate][0]) + f64(b[gate][1])
        a[gate] = recurrent[:, part] + incoming[:, part] + bias

    i = sigmoid(a["i"])
    f = sigmoid(a["f"])
    g = np.tanh(a["g"])
    o = sigmoid(a["o"])
    c_new = f * c + i * g
    c_read = standardise(c_new, eps) * f64(extra["gain_c"]) + f64(extra["bias_c"])
    h_new = o * np.tanh(c_read)
    return h_new, (h_new, c_new)
