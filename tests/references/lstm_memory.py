"""LSTMs whose memory is reached, nested or combined otherwise."""

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid


def logistic(gate, x, h, W, U, b, more=0.0):
    """s(W x + U h + b + more) of one gate."""
    return sigmoid(from_input(gate, x, W, b) + from_hidden(gate, h, U, b) + more)


def hyperbolic(gate, x, h, W, U, b):
    """tanh(W x + U h + b) of one gate."""
    return np.tanh(from_input(gate, x, W, b) + from_hidden(gate, h, U, b))


@reference("secondary source", lambda i, h: 4 * h * (i + h + 2) + 3 * h * h)
def wmc_lstm(x, state, W, U, b, extra):
    """LSTM with working memory connections; gates ``i``, ``f``, ``g``, ``o``.

    Source: Landi, Baraldi, Cornia & Cucchiara 2021, "Working Memory Connections for LSTM", arXiv
    2109.00020. Read in the transcription of RecurrentLayers.jl's issues 108 and 130 (that the
    output gate sees c', not c).

        i = s(W_i x + U_i h + b_i + tanh(W_ci c))        f likewise
        c' = f * c + i * tanh(W_g x + U_g h + b_g)
        o = s(W_o x + U_o h + b_o + tanh(W_co c'))       h' = o * tanh(c')
    """
    h, c = state
    c = f64(c)
    W_ci, W_cf, W_co = (f64(extra[f"weight_c{gate}"]) for gate in "ifo")
    i = logistic("i", x, h, W, U, b, np.tanh(c @ W_ci.T))
    f = logistic("f", x, h, W, U, b, np.tanh(c @ W_cf.T))
    c_new = f * c + i * hyperbolic("g", x, h, W, U, b)
    o = logistic("o", x, h, W, U, b, np.tanh(c_new @ W_co.T))
    h_new = o * np.tanh(c_new)
    return h_new, (h_new, c_new)


@reference("secondary source", lambda i, h: 5 * h * (i + h + 2))
def mc_lstm(x, state, W, U, b, extra):
    """LSTM with a memory controller; gates ``f``, ``i``, ``o``, ``m``, ``n``; states v, c.

    Source: Intel's workshop paper at NIPS 2017 (Sequence-Modeling-NIPS-2017.pdf). Read in the
    transcriptions of RecurrentLayers.jl's issue 136 and of torchrecurrent's MCLSTMCell.

        f, i, o, m = s(W x + U v + b)        n = tanh(W_n x + U_n v + b_n)
        c' = f * c + i * n
        output = o * tanh(c')                v' = m * tanh(c')
    """
    v, c = state
    f, i, o, m = (logistic(gate, x, v, W, U, b) for gate in "fiom")
    c_new = f * f64(c) + i * hyperbolic("n", x, v, W, U, b)
    return o * np.tanh(c_new), (m * np.tanh(c_new), c_new)


@reference("author's code", lambda i, h: 4 * h * (i + h + 2) + h * (i + h))
def multiplicative_lstm(x, state, W, U, b, extra):
    """Multiplicative LSTM; gates ``i``, ``f``, ``g``, ``o``, whose recurrent operand is m.

    Source: Krause, Lu, Murray & Renals 2016, "Multiplicative LSTM for sequence modelling", arXiv
    1609.07959. Read in the first author's code, benkrause/mLSTM, chainer/mLSTMWN.py, whose last
    step is chainer's own LSTM, and in the transcription of RecurrentLayers.jl's issue 120.

        m = (W_mx x) * (W_mh h)
        i, f, o = s(W x + U m + b)        c' = f * c + i * tanh(W_g x + U_g m + b_g)
        h' = o * tanh(c')
    """
    h, c = state
    m = (f64(x) @ f64(extra["weight_mx"]).T) * (f64(h) @ f64(extra["weight_mh"]).T)
    i, f, o = (logistic(gate, x, m, W, U, b) for gate in "ifo")
    c_new = f * f64(c) + i * hyperbolic("g", x, m, W, U, b)
    h_new = o * np.tanh(c_new)
    return h_new, (h_new, c_new)


@reference(
    "secondary source", lambda i, h: 4 * h * (i + h + 2) + 3 * h + h * h + (h * i if i != h else 0)
)
def residual_lstm(x, state, W, U, b, extra):
    """Residual LSTM; gates ``i``, ``f``, ``g``, ``o``.

    Source: Kim, El-Khamy & Lee 2017, "Residual LSTM: Design of a Deep Recurrent Architecture for
    Distant Speech Recognition", arXiv 1701.03360. Read in the transcription of
    RecurrentLayers.jl's issue 142.

        i = s(W_i x + U_i h + p_i * c + b_i)         f likewise
        c' = f * c + i * tanh(W_g x + U_g h + b_g)
        o = s(W_o x + U_o h + p_o * c' + b_o)
        h' = o * (W_p tanh(c') + W_s x)

    W_s is there only where the input's width is another than the state's; else x itself.
    """
    h, c = state
    c = f64(c)
    p_i, p_f, p_o = (f64(extra[f"peephole_{gate}"]) for gate in "ifo")
    i = logistic("i", x, h, W, U, b, p_i * c)
    f = logistic("f", x, h, W, U, b, p_f * c)
    c_new = f * c + i * hyperbolic("g", x, h, W, U, b)
    o = logistic("o", x, h, W, U, b, p_o * c_new)
    shortcut = f64(x) @ f64(extra["weight_fit"]).T if "weight_fit" in extra else f64(x)
    h_new = o * (np.tanh(c_new) @ f64(extra["weight_p"]).T + shortcut)
    return h_new, (h_new, c_new)


@reference("secondary source", lambda i, h: 4 * h * (i + h + 2) + 4 * h * (2 * h + 1))
def nested_lstm(x, state, W, U, b, extra):
    """Nested LSTM of depth two; gates ``i``, ``f``, ``g``, ``o`` and ``inner_…`` of each.

    Source: Moniz & Krueger 2018, "Nested LSTMs", arXiv 1801.10308. Read in the public code of
    hannw/nlstm, rnn_cell.py, depth 2.

        i, f, o = s(W x + U h + b)                   g = tanh(W_g x + U_g h + b_g)
        the inner cell's input is i * g and its hidden state f * c, with a cell state of its own:
        i~, f~, o~ = s(V [i * g, f * c] + b~)        g~ = tanh(V_g [i * g, f * c] + b~_g)
        inner' = f~ * inner + i~ * g~
        c' = o~ * tanh(inner')                       h' = o * tanh(c')
    """
    h, c, inner = state
    i, f, o = (logistic(gate, x, h, W, U, b) for gate in "ifo")
    g = hyperbolic("g", x, h, W, U, b)
    within = np.concatenate([i * g, f * f64(c)], axis=-1)
    i_in, f_in, o_in = (sigmoid(from_hidden(f"inner_{gate}", within, U, b)) for gate in "ifo")
    g_in = np.tanh(from_hidden("inner_g", within, U, b))
    inner_new = f_in * f64(inner) + i_in * g_in
    c_new = o_in * np.tanh(inner_new)
    h_new = o * np.tanh(c_new)
    return h_new, (h_new, c_new, inner_new)
