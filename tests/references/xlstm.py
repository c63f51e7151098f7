"""The two cells of the xLSTM."""

import numpy as np

from references.common import f64, from_input, reference, sigmoid

VARIANTS = ({"forget": "sigmoid"}, {"forget": "exp", "heads": 2}, {"heads": 2})
EVEN = ((3, 2), (2, 4), (4, 4))  # the heads divide the width


def log_forget(a, kind):
    """The logarithm of the forget gate: of the logistic sigmoid, or of the exponential."""
    return -np.logaddexp(0.0, -a) if kind == "sigmoid" else a


@reference(
    "author's code",
    lambda i, h: 4 * h * (i + h + 2),
    variants=VARIANTS,
    sizes=EVEN,
)
def slstm(x, state, W, U, b, extra):
    """sLSTM, with exponential gates and a stabiliser; gates ``i``, ``f``, ``z``, ``o``.

    Source: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517. Read in
    the authors' code, NX-AI/xlstm, xlstm/blocks/slstm/src/vanilla/slstm.py.

        i, f, z, o = W x + R h + b, R of each gate block-diagonal with ``heads`` blocks
        m' = max(log f + m, i)
        i^ = exp(i - m')        f^ = exp(log f + m - m')
        c' = f^ * c + i^ * tanh(z)        n' = f^ * n + i^
        h' = s(o) * c' / n'

    log f is log s(f) or, with ``forget`` "exp", f itself (the paper allows both). At the first
    step m' = i, which a first m of minus infinity gives (the code asks whether n is zero).
    """
    h, c, n, m = (f64(s) for s in state)
    heads = int(extra.get("heads", 1))

    def pre(gate):
        blocks = np.split(f64(U[gate]), heads)  # (rows / heads, columns / heads) each
        parts = np.split(h, heads, axis=-1)
        recurrent = np.concatenate(
            [part @ block.T for part, block in zip(parts, blocks, strict=True)], axis=-1
        )
        return from_input(gate, x, W, b) + recurrent + f64(b[gate][1])

    i, log_f = pre("i"), log_forget(pre("f"), extra["forget"])
    m_new = np.maximum(log_f + m, i)
    i_hat, f_hat = np.exp(i - m_new), np.exp(log_f + m - m_new)
    c_new = f_hat * c + i_hat * np.tanh(pre("z"))
    n_new = f_hat * n + i_hat
    h_new = sigmoid(pre("o")) * c_new / n_new
    return h_new, (h_new, c_new, n_new, m_new)


@reference(
    "author's code",
    lambda i, h: (4 * h + 2) * (i + 1),
    variants=VARIANTS,
    sizes=EVEN,
)
def mlstm(x, state, W, U, b, extra):
    """mLSTM, with a matrix memory; gates ``i``, ``f`` (one a head), ``q``, ``k``, ``v``, ``o``.

    Source: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517. Read in
    the authors' code, NX-AI/xlstm, xlstm/blocks/mlstm/backends.py (the stabilised recurrent step).

        m' = max(log f + m, i)        i^ = exp(i - m')        f^ = exp(log f + m - m')
        C' = f^ C + i^ v (k / sqrt(d))^T        n' = f^ n + i^ k / sqrt(d)
        output = s(o) * C' q / max(|n'^T q|, exp(-m'))

    d is a head's width. The paper has no eps; the code adds 1e-6 to the denominator. The output
    gate is the paper's; the code's layer puts another gate there. The state c holds C row by row
    (values by keys), head after head.
    """
    c, n, m = (f64(s) for s in state)
    heads, batch = int(extra.get("heads", 1)), len(c)
    d = int(extra["hidden_size"]) // heads
    memory, n = c.reshape(batch, heads, d, d), n.reshape(batch, heads, d)
    q, k, v = (from_input(gate, x, W, b).reshape(batch, heads, d) for gate in "qkv")
    i, log_f = from_input("i", x, W, b), log_forget(from_input("f", x, W, b), extra["forget"])
    m_new = np.maximum(log_f + m, i)
    i_hat = np.exp(i - m_new)[..., None]
    f_hat = np.exp(log_f + m - m_new)[..., None]
    k = k / np.sqrt(d)
    memory_new = f_hat[..., None] * memory + i_hat[..., None] * v[..., :, None] * k[..., None, :]
    n_new = f_hat * n + i_hat * k
    read = np.einsum("bhvk,bhk->bhv", memory_new, q)
    scale = np.maximum(np.abs((n_new * q).sum(-1)), np.exp(-m_new))[..., None]
    output = sigmoid(from_input("o", x, W, b)) * (read / scale).reshape(batch, -1)
    return output, (memory_new.reshape(batch, -1), n_new.reshape(batch, -1), m_new)
