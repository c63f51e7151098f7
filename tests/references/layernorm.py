"""Cells with layer normalisation, other than the LSTM (see lstm.py)."""

import numpy as np

from references.common import f64, reference, sigmoid, standardise


@reference("memory", lambda i, h: h * (i + h + 2))
def layernorm_elman(x, state, W, U, b, extra):
    """Simple recurrent network with layer normalisation; gate ``n``.

    Source: Ba, Kiros & Hinton 2016, "Layer Normalization", arXiv 1607.06450, equation (4). From
    memory.

        a = W x + U h        h' = tanh(gain * (a - mean(a)) / std(a) + bias)

    The paper's f is left open; here it is tanh. eps is added to the biased variance.
    """
    (h,) = state
    a = f64(x) @ f64(W["n"]).T + f64(h) @ f64(U["n"]).T
    bias = f64(b["n"][0]) + f64(b["n"][1])
    h_new = np.tanh(f64(extra["gain"]) * standardise(a, float(extra["eps"])) + bias)
    return h_new, (h_new,)


@reference(
    "author's code",
    lambda i, h: 3 * h * (i + h) + 3 * h + 6 * h + h,
    variants=({"norm": "gates"}, {"norm": "all"}),
)
def layernorm_gru(x, state, W, U, b, extra):
    """GRU with layer normalisation; gates ``r``, ``z``, ``n``.

    Source: Ba, Kiros & Hinton 2016, "Layer Normalization", arXiv 1607.06450, supplementary
    material. Read in the second author's code, ryankiros/layer-norm, layers.py, lngru_layer.

        (r, z) = s(LN(W x) + LN(U h)), both gates normalised together
        n = tanh(LN(W_n x) + r * LN(U_n h))
        h' = z * h + (1 - z) * n

    Each LN has a gain and a bias: the gains are ``gain_ih`` and ``gain_hh``, in the order r, z, n.
    The biases of both norms of r and z act by their sum, ``b[gate][0]``; that of LN(W_n x) is
    ``b["n"][0]``, and that of LN(U_n h), within the reset, is ``extra["bias_n"]``. The code adds
    one more bias to W x before the norm, which the paper has not. With ``norm`` "all" the norms go
    over all three gates. eps is added to the biased variance.
    """
    (h,) = state
    h, x, eps = f64(h), f64(x), float(extra["eps"])
    width = h.shape[-1]

    def normalised(v, weights, gain):
        a = np.concatenate([v @ f64(weights[gate]).T for gate in "rzn"], axis=-1)
        if extra["norm"] == "all":
            a = standardise(a, eps)
        else:
            rz, n = a[:, : 2 * width], a[:, 2 * width :]
            a = np.concatenate([standardise(rz, eps), standardise(n, eps)], axis=-1)
        return dict(zip("rzn", np.split(a * f64(gain), 3, axis=-1), strict=True))

    wx, uh = normalised(x, W, extra["gain_ih"]), normalised(h, U, extra["gain_hh"])
    r = sigmoid(wx["r"] + uh["r"] + f64(b["r"][0]))
    z = sigmoid(wx["z"] + uh["z"] + f64(b["z"][0]))
    n = np.tanh(wx["n"] + f64(b["n"][0]) + r * (uh["n"] + f64(extra["bias_n"])))
    h_new = z * h + (1.0 - z) * n
    return h_new, (h_new,)
