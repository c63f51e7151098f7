"""LSTMs that gate otherwise."""

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid


def logistic(gate, x, h, W, U, b):
    """s(W x + U h + b) of one gate."""
    return sigmoid(from_input(gate, x, W, b) + from_hidden(gate, h, U, b))


@reference(
    "author's code", lambda i, h: 2 * h * (i + h + 2), variants=({}, {"beta": 0.0}, {"beta": 0.4})
)
def janet(x, state, W, U, b, extra):
    """JANET, an LSTM with the forget gate alone; gates ``f``, ``g``.

    Source: van der Westhuizen & Lasenby 2018, "The unreasonable effectiveness of the forget
    gate", arXiv 1804.04849. Read in the first author's code, JosvanderWesthuizen/janet,
    aux_code/rnn_cells.py (forget_only), where beta is 1 and 1 - s(f - 1) is written s(1 - f).

        f = W_f x + U_f h + b_f        g = tanh(W_g x + U_g h + b_g)
        h' = s(f) * h + (1 - s(f - beta)) * g
    """
    (h,) = state
    h = f64(h)
    a = from_input("f", x, W, b) + from_hidden("f", h, U, b)
    g = np.tanh(from_input("g", x, W, b) + from_hidden("g", h, U, b))
    h_new = sigmoid(a) * h + (1.0 - sigmoid(a - float(extra["beta"]))) * g
    return h_new, (h_new,)


@reference(
    "secondary source",
    lambda i, h: 3 * h * (i + h + 2),
    variants=({"squash": "logistic"}, {"squash": "tanh"}),
)
def lstm_1997(x, state, W, U, b, extra):
    """The LSTM of 1997, without a forget gate; gates ``i``, ``g``, ``o``.

    Source: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory", Neural Computation 9(8),
    doi:10.1162/neco.1997.9.8.1735. From memory; agrees with what public repositories' notes on the
    paper quote of it, the ranges of the squashing functions too.

        i = s(W_i x + U_i h + b_i)        o = s(W_o x + U_o h + b_o)
        c' = c + i * squash_g(W_g x + U_g h + b_g)
        h' = o * squash_h(c')

    The paper's squashing functions are logistic: squash_g(a) = 4 s(a) - 2 in [-2, 2] and
    squash_h(a) = 2 s(a) - 1 in [-1, 1]; with ``extra["squash"] == "tanh"`` both are tanh. One cell
    a memory block; the input and the output gate see all other units' outputs.
    """
    h, c = state
    a = from_input("g", x, W, b) + from_hidden("g", h, U, b)
    tanh = extra["squash"] == "tanh"
    g = np.tanh(a) if tanh else 4.0 * sigmoid(a) - 2.0
    c_new = f64(c) + logistic("i", x, h, W, U, b) * g
    read = np.tanh(c_new) if tanh else 2.0 * sigmoid(c_new) - 1.0
    h_new = logistic("o", x, h, W, U, b) * read
    return h_new, (h_new, c_new)


@reference("secondary source", lambda i, h: 4 * h * (i + h + 1) + h)
def ur_lstm(x, state, W, U, b, extra):
    """LSTM with uniform gate initialisation and refine gate; gates ``f``, ``refine``, ``g``, ``o``.

    Source: Gu, Gulcehre, Paine, Hoffman & Pascanu 2020, "Improving the Gating Mechanism of
    Recurrent Neural Networks", arXiv 1910.09890. Read in the public code of r0mainK/ur-lstm.

        f = s(W_f x + U_f h + b_f + b_u)        r = s(W_r x + U_r h + b_r - b_u)
        F = 2 r * f + (1 - 2 r) * f^2
        c' = F * c + (1 - F) * tanh(W_g x + U_g h + b_g)
        h' = s(W_o x + U_o h + b_o) * tanh(c')

    r is the gate ``refine``; b_u is ``extra["bias_u"]``. F = (1 - r) * f^2 + r * (1 - (1 - f)^2).
    """
    h, c = state
    b_u = f64(extra["bias_u"])
    f = sigmoid(from_input("f", x, W, b) + from_hidden("f", h, U, b) + b_u)
    r = sigmoid(from_input("refine", x, W, b) + from_hidden("refine", h, U, b) - b_u)
    refined = 2.0 * r * f + (1.0 - 2.0 * r) * f**2
    g = np.tanh(from_input("g", x, W, b) + from_hidden("g", h, U, b))
    c_new = refined * f64(c) + (1.0 - refined) * g
    h_new = logistic("o", x, h, W, U, b) * np.tanh(c_new)
    return h_new, (h_new, c_new)


@reference(
    "author's code",
    lambda i, h: 4 * h * (i + h + 2),
    variants=({}, {"fixed_forget": True}),
)
def sub_lstm(x, state, W, U, b, extra):
    """subLSTM, gated by subtraction; gates ``i``, ``o``, ``z``, ``f``.

    Source: Costa, Assael, Shillingford, de Freitas & Vogels 2017, "Cortical microcircuits as
    gated-recurrent neural networks", arXiv 1711.02448. Read in the authors' group's code,
    neuralml/pytorch-subLSTM, src/subLSTM/functional.py.

        i, o, z, f = s(W x + U h + b)
        c' = f * c + z - i
        h' = s(c') - o

    With ``fixed_forget`` there is no gate f but a learned vector, within [0, 1] by clipping.
    """
    h, c = state
    i, o, z = (logistic(gate, x, h, W, U, b) for gate in "ioz")
    if extra["fixed_forget"]:
        f = np.clip(f64(extra["forget"]), 0.0, 1.0)
    else:
        f = logistic("f", x, h, W, U, b)
    c_new = f * f64(c) + z - i
    h_new = sigmoid(c_new) - o
    return h_new, (h_new, c_new)


@reference(
    "author's code",
    lambda i, h: 6 * h * (i + h + 2),
    variants=({}, {"chunk_size": 2}),
    sizes=((3, 2), (2, 4), (4, 4)),  # the chunks divide the width
)
def on_lstm(x, state, W, U, b, extra):
    """Ordered-neurons LSTM; gates ``master_i``, ``master_f``, ``i``, ``f``, ``g``, ``o``.

    Source: Shen, Tan, Sordoni & Courville 2019, "Ordered Neurons: Integrating Tree Structures
    into Recurrent Neural Networks", arXiv 1810.09536. Read in the first author's code,
    yikangshen/Ordered-Neurons, ON_LSTM.py.

        F = cumsum(softmax(W_F x + U_F h + b_F))        I = 1 - cumsum(softmax(W_I x + ...))
        overlap = F * I
        f^ = s(f) * overlap + F - overlap               i^ = s(i) * overlap + I - overlap
        c' = f^ * c + i^ * tanh(g)                      h' = s(o) * tanh(c')

    The master gates have one value a chunk of ``chunk_size`` units that lie side by side.
    """
    h, c = state

    def cumulated(gate):
        a = from_input(gate, x, W, b) + from_hidden(gate, h, U, b)
        e = np.exp(a - a.max(axis=-1, keepdims=True))
        chunks = np.cumsum(e / e.sum(axis=-1, keepdims=True), axis=-1)
        return np.repeat(chunks, int(extra["chunk_size"]), axis=-1)

    master_f, master_i = cumulated("master_f"), 1.0 - cumulated("master_i")
    overlap = master_f * master_i
    f = logistic("f", x, h, W, U, b) * overlap + master_f - overlap
    i = logistic("i", x, h, W, U, b) * overlap + master_i - overlap
    g = np.tanh(from_input("g", x, W, b) + from_hidden("g", h, U, b))
    c_new = f * f64(c) + i * g
    h_new = logistic("o", x, h, W, U, b) * np.tanh(c_new)
    return h_new, (h_new, c_new)
