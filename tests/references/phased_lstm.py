"""The phased LSTM."""

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid


@reference("author's code", lambda i, h: 4 * h * (i + h + 2) + 6 * h)
def phased_lstm(x, state, W, U, b, extra):
    """Phased LSTM; gates ``i``, ``f``, ``g``, ``o``; states h, c and the time.

    Source: Neil, Pfeiffer & Liu 2016, "Phased LSTM: Accelerating Recurrent Network Training for
    Long or Event-based Sequences", arXiv 1610.09513. Read in the first author's code,
    dannyneil/public_plstm, plstm.py.

        i = s(W_i x + U_i h + p_i * c + b_i)        f likewise
        c~ = f * c + i * tanh(W_g x + U_g h + b_g)
        o = s(W_o x + U_o h + p_o * c~ + b_o)       h~ = o * tanh(c~)
        phi = ((t - shift) mod period) / period
        k = 2 phi / r where phi < r / 2;  2 - 2 phi / r where r / 2 <= phi < r;  else leak * phi
        c' = k * c~ + (1 - k) * c                   h' = k * h~ + (1 - k) * h

    t is the time after the step, the state's plus dt; r is ``open_ratio``. The paper subtracts
    the shift, the code adds it. In evaluation, which is what is compared, the leak is 0, as in
    the code.
    """
    h, c, time = (f64(s) for s in state)
    p_i, p_f, p_o = (f64(extra[f"peephole_{gate}"]) for gate in "ifo")
    i = sigmoid(from_input("i", x, W, b) + from_hidden("i", h, U, b) + p_i * c)
    f = sigmoid(from_input("f", x, W, b) + from_hidden("f", h, U, b) + p_f * c)
    g = np.tanh(from_input("g", x, W, b) + from_hidden("g", h, U, b))
    c_tilde = f * c + i * g
    o = sigmoid(from_input("o", x, W, b) + from_hidden("o", h, U, b) + p_o * c_tilde)
    h_tilde = o * np.tanh(c_tilde)

    now = time + f64(extra["dt"])
    period, shift, r = (f64(extra[name]) for name in ("period", "shift", "open_ratio"))
    phi = np.mod(now - shift, period) / period
    k = np.where(phi < r / 2, 2 * phi / r, np.where(phi < r, 2 - 2 * phi / r, 0.0))
    c_new = k * c_tilde + (1 - k) * c
    h_new = k * h_tilde + (1 - k) * h
    return h_new, (h_new, c_new, now)
