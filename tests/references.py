"""Plain NumPy float64 references of seven recurrent cells, one time step at a time.

Each function is written from the equations of the paper named in its docstring, gate by gate,
without reading the implementation under test. Nothing here is meant to be fast.

Every cell has the same interface::

    output, new_state = cell(x, state, W, U, b, extra)

- ``x``: (batch, input).
- ``state``: ``(h, c)`` for the LSTMs, ``(h,)`` otherwise; each (batch, hidden).
- ``W``, ``U``: gate name -> matrix of shape (hidden, input) and (hidden, hidden).
- ``b``: gate name -> pair ``(b_input, b_recurrent)`` of vectors (hidden,); either may be zeros.
- ``extra``: further values by name; a cell that needs none ignores it.

The output of every cell is its new ``h``. In the docstrings ``*`` is element-wise, ``s`` is the
logistic sigmoid, ``h`` and ``c`` are the state before the step, ``h'`` and ``c'`` after it, and
``b_gate`` is the sum of the pair of biases (the papers have one bias a gate, or write none).

How the sources were checked: no paper's full text was at hand, so nothing below was compared with
a paper itself. "From memory" means just that; where a second-hand statement of the same equations
was found and agrees, the docstring says which.
"""

import numpy as np


def _f64(a) -> np.ndarray:
    """Return ``a`` as a float64 array."""
    return np.asarray(a, dtype=np.float64)


def _sigmoid(a: np.ndarray) -> np.ndarray:
    """Logistic sigmoid 1 / (1 + exp(-a)), written so that it does not overflow."""
    return np.exp(-np.logaddexp(0.0, -a))


def _from_input(gate: str, x, W: dict, b: dict) -> np.ndarray:
    """Return W x + b_input of one gate."""
    return _f64(x) @ _f64(W[gate]).T + _f64(b[gate][0])


def _from_hidden(gate: str, h, U: dict, b: dict) -> np.ndarray:
    """Return U h + b_recurrent of one gate."""
    return _f64(h) @ _f64(U[gate]).T + _f64(b[gate][1])


def _standardise(a: np.ndarray, eps: float) -> np.ndarray:
    """Subtract the mean over the last axis and divide by sqrt(biased variance + eps)."""
    centred = a - a.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps)


def elman(x, state, W, U, b, extra):
    """Simple recurrent network; gate ``h``.

    Source: Elman 1990, "Finding Structure in Time", Cognitive Science 14(2),
    doi:10.1207/s15516709cog1402_1. From memory.

        h' = phi(W x + b_input + U h + b_recurrent)

    Conventions: the paper describes the network in words (context units hold a copy of the
    previous hidden units) and fixes no such formula; ``extra["nonlinearity"]`` names phi,
    "tanh" or "relu". The output is the hidden state, without the paper's output layer.
    """
    (h,) = state
    a = _from_input("h", x, W, b) + _from_hidden("h", h, U, b)
    if extra["nonlinearity"] == "tanh":
        h_new = np.tanh(a)
    elif extra["nonlinearity"] == "relu":
        h_new = np.maximum(a, 0.0)
    else:
        raise ValueError(f"unknown nonlinearity: {extra['nonlinearity']!r}")
    return h_new, (h_new,)


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
    i = _sigmoid(_from_input("i", x, W, b) + _from_hidden("i", h, U, b))
    f = _sigmoid(_from_input("f", x, W, b) + _from_hidden("f", h, U, b))
    g = np.tanh(_from_input("g", x, W, b) + _from_hidden("g", h, U, b))
    o = _sigmoid(_from_input("o", x, W, b) + _from_hidden("o", h, U, b))
    c_new = f * _f64(c) + i * g
    h_new = o * np.tanh(c_new)
    return h_new, (h_new, c_new)


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
    c = _f64(c)
    p_i, p_f, p_o = (_f64(extra[f"peephole_{gate}"]) for gate in "ifo")
    i = _sigmoid(_from_input("i", x, W, b) + _from_hidden("i", h, U, b) + p_i * c)
    f = _sigmoid(_from_input("f", x, W, b) + _from_hidden("f", h, U, b) + p_f * c)
    g = np.tanh(_from_input("g", x, W, b) + _from_hidden("g", h, U, b))
    c_new = f * c + i * g
    o = _sigmoid(_from_input("o", x, W, b) + _from_hidden("o", h, U, b) + p_o * c_new)
    h_new = o * np.tanh(c_new)
    return h_new, (h_new, c_new)


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
    i = _sigmoid(_from_input("i", x, W, b) + _from_hidden("i", h, U, b))
    f = 1.0 - i
    g = np.tanh(_from_input("g", x, W, b) + _from_hidden("g", h, U, b))
    o = _sigmoid(_from_input("o", x, W, b) + _from_hidden("o", h, U, b))
    c_new = f * _f64(c) + i * g
    h_new = o * np.tanh(c_new)
    return h_new, (h_new, c_new)


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
    h, c, x = _f64(h), _f64(c), _f64(x)
    eps = float(extra.get("eps", 1e-5))
    order = ("i", "f", "g", "o")

    # The biases come after the normalisation, so these are the bare products.
    recurrent = np.concatenate([h @ _f64(U[gate]).T for gate in order], axis=-1)
    incoming = np.concatenate([x @ _f64(W[gate]).T for gate in order], axis=-1)
    recurrent = _standardise(recurrent, eps) * _f64(extra["gain_hh"])
    incoming = _standardise(incoming, eps) * _f64(extra["gain_ih"])

    hidden = h.shape[-1]
    a = {}
    for k, gate in enumerate(order):
        part = slice(k * hidden, (k + 1) * hidden)
        bias = _f64(b[gate][0]) + _f64(b[gate][1])
        a[gate] = recurrent[:, part] + incoming[:, part] + bias

    i = _sigmoid(a["i"])
    f = _sigmoid(a["f"])
    g = np.tanh(a["g"])
    o = _sigmoid(a["o"])
    c_new = f * c + i * g
    c_read = _standardise(c_new, eps) * _f64(extra["gain_c"]) + _f64(extra["bias_c"])
    h_new = o * np.tanh(c_read)
    return h_new, (h_new, c_new)


def gru(x, state, W, U, b, extra):
    """GRU with the reset gate after the recurrent product; gates ``r``, ``z``, ``n``.

    Source: cuDNN's CUDNN_GRU, the form of Keras with ``reset_after=True`` and of PyTorch.
    Checked against the cuDNN user guide's equations as quoted on TensorFlow 1.15's page of
    CudnnCompatibleGRUCell, and against PyTorch's page of torch.nn.GRU. According to Keras's
    documentation and pytorch/pytorch issue 8153, this is the order of the FIRST arXiv version of
    Cho et al. 2014 (1406.1078v1); the paper itself was not seen.

        r = s(W_r x + U_r h + b_r)
        z = s(W_z x + U_z h + b_z)
        n = tanh(W_n x + b_n_input + r * (U_n h + b_n_recurrent))
        h' = (1 - z) * n + z * h

    Conventions: z near 1 keeps the old state. b_n_recurrent lies inside the reset product, so
    the two biases of ``n`` do not merge into one.
    """
    (h,) = state
    r = _sigmoid(_from_input("r", x, W, b) + _from_hidden("r", h, U, b))
    z = _sigmoid(_from_input("z", x, W, b) + _from_hidden("z", h, U, b))
    n = np.tanh(_from_input("n", x, W, b) + r * _from_hidden("n", h, U, b))
    h_new = (1.0 - z) * n + z * _f64(h)
    return h_new, (h_new,)


def gru_v1(x, state, W, U, b, extra):
    """GRU with the reset gate before the recurrent product; gates ``r``, ``z``, ``n``.

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder for
    Statistical Machine Translation", EMNLP 2014, doi:10.3115/v1/D14-1179, arXiv 1406.1078,
    equations (5) to (8). From memory; agrees with transcriptions of these equations in public
    repositories' reading notes, not with the paper's own text.

        r = s(W_r x + U_r h + b_r)
        z = s(W_z x + U_z h + b_z)
        n = tanh(W_n x + b_n_input + U_n (r * h) + b_n_recurrent)
        h' = z * h + (1 - z) * n

    Conventions: z near 1 keeps the old state, as in this paper (Chung et al. 2014, arXiv
    1412.3555, swap z and 1 - z). The equations write no biases; they are added here.
    The "v1" of this function's name is not the arXiv version: according to Keras's documentation
    and pytorch/pytorch issue 8153, reset before the product is arXiv version 3, and version 1 of
    the paper has the order of ``gru`` above.
    """
    (h,) = state
    h = _f64(h)
    r = _sigmoid(_from_input("r", x, W, b) + _from_hidden("r", h, U, b))
    z = _sigmoid(_from_input("z", x, W, b) + _from_hidden("z", h, U, b))
    n = np.tanh(_from_input("n", x, W, b) + _from_hidden("n", r * h, U, b))
    h_new = z * h + (1.0 - z) * n
    return h_new, (h_new,)


def run(cell, xs, state, W, U, b, extra):
    """Run ``cell`` over ``xs`` (T, batch, input), one step after the other.

    Returns the outputs, (T, batch, hidden), and the state after the last step. With T = 0 the
    outputs are empty and the state is the given one, as float64.
    """
    xs = _f64(xs)
    state = tuple(_f64(part) for part in state)
    outputs = np.empty((xs.shape[0], *state[0].shape), dtype=np.float64)
    for t, x in enumerate(xs):
        outputs[t], state = cell(x, state, W, U, b, extra)
    return outputs, state
