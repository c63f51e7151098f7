"""Cells whose state enters linearly, and those with structured recurrent matrices."""

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid, standardise


def sums(gate, x, W, U, b):
    """Return W x and both biases of a gate without a recurrent block."""
    return from_input(gate, x, W, b) + f64(b[gate][1])


def positive(extra, a):
    """The candidate: as it is, or the positive g of the log-space form."""
    if extra["candidate"] == "linear":
        return a
    return np.where(a >= 0, a + 0.5, sigmoid(a))


CANDIDATES = ({}, {"candidate": "positive"})


@reference("secondary source", lambda i, h: 2 * h * (i + 1), variants=CANDIDATES)
def mingru(x, state, W, U, b, extra):
    """Minimal GRU; gates ``z``, ``n``.

    Source: Feng, Tung, Ahmed, Bengio & Hajimirsadeghi 2024, "Were RNNs All We Needed?", arXiv
    2410.01201, from Edifice's documentation of MinGRU; g from several
    reimplementations.

        z = s(W_z x + b_z)      n = W_n x + b_n, or g of it
        h' = (1 - z) h + z n
        g(a) = a + 0.5 where a >= 0, s(a) elsewhere (the appendix's log-space form)
    """
    (h,) = state
    z = sigmoid(sums("z", x, W, U, b))
    h_new = (1 - z) * f64(h) + z * positive(extra, sums("n", x, W, U, b))
    return h_new, (h_new,)


@reference("memory", lambda i, h: 3 * h * (i + 1), variants=CANDIDATES)
def minlstm(x, state, W, U, b, extra):
    """Minimal LSTM with normalised gates; gates ``f``, ``i``, ``n``.

    Source: as for ``mingru``. From memory.

        f = s(W_f x + b_f)      i = s(W_i x + b_i)      n = W_n x + b_n, or g of it
        h' = f / (f + i) h + i / (f + i) n
    """
    (h,) = state
    f = sigmoid(sums("f", x, W, U, b))
    i = sigmoid(sums("i", x, W, U, b))
    h_new = (f * f64(h) + i * positive(extra, sums("n", x, W, U, b))) / (f + i)
    return h_new, (h_new,)


@reference("secondary source", lambda i, h: 3 * h * i + 3 * h + 2 * h * h)
def lru(x, state, W, U, b, extra):
    """Linear recurrent unit; blocks ``re``, ``im`` (of B) and ``skip`` (D).

    Source: Orvieto et al. 2023, arXiv 2303.06349, from Zucchet's minimal-LRU.

        lambda = exp(-exp(nu_log) + i exp(theta_log))
        z' = lambda z + exp(gamma_log) (B x)      y = Re(C z') + D x

    Convention: D is a full matrix here, the width of the output being that of the state.
    """
    (z,) = state
    lam = np.exp(-np.exp(f64(extra["nu_log"])) + 1j * np.exp(f64(extra["theta_log"])))
    driven = sums("re", x, W, U, b) + 1j * sums("im", x, W, U, b)
    z_new = lam * f64(z) + np.exp(f64(extra["gamma_log"])) * driven
    C = f64(extra["weight_re"]) + 1j * f64(extra["weight_im"])
    return (z_new @ C.T).real + sums("skip", x, W, U, b), (z_new,)


@reference("author's code", lambda i, h: 3 * h * (i + 1) + h)
def rglru(x, state, W, U, b, extra):
    """Real-gated linear recurrent unit; gates ``r``, ``i`` and the input ``u``.

    Source: De et al. 2024, "Griffin", arXiv 2402.19427; the authors' recurrentgemma,
    torch/layers.py, whose special first step (no normalisation where a sequence begins) is left
    out. The gates are full matrices here, the input is projected to the state's width.

        r = s(W_r x + b_r)      i = s(W_i x + b_i)
        log a = -8 r softplus(decay)
        h' = a h + sqrt(1 - a^2) (i * u)
    """
    (h,) = state
    r = sigmoid(sums("r", x, W, U, b))
    i = sigmoid(sums("i", x, W, U, b))
    log_a = -8.0 * r * np.logaddexp(0.0, f64(extra["decay"]))
    h_new = np.exp(log_a) * f64(h) + np.sqrt(-np.expm1(2 * log_a)) * i * sums("u", x, W, U, b)
    return h_new, (h_new,)


@reference(
    "secondary source",
    lambda i, h: 3 * h * (2 * i + 1),
    variants=tuple({"pooling": p, "window": w} for p in ("f", "fo", "ifo") for w in (1, 2)),
)
def qrnn(x, state, W, U, b, extra):
    """Quasi-recurrent network; gates ``z``, ``i``, ``f``, ``o`` as far as the pooling has them.

    Source: Bradbury, Merity, Xiong & Socher 2017, arXiv 1611.01576, the equations as two
    readers quote them.

        z = tanh(W_z x + V_z x_before + b_z), and i, f, o likewise with s
        f:    c' = f c + (1 - f) z, the output
        fo:   c' = f c + (1 - f) z      output o c'
        ifo:  c' = f c + i z            output o c'

    Conventions: with a window of 2, the state ``before`` is V x of all gates in their order; it is
    replaced by ``weight_before`` x.
    """
    gates = {"f": "zf", "fo": "zfo", "ifo": "zifo"}[extra["pooling"]]
    a = {gate: sums(gate, x, W, U, b) for gate in gates}
    states_new = ()
    if extra["window"] == 2:
        parts = np.split(f64(state[1]), len(gates), axis=-1)
        a = {gate: a[gate] + part for gate, part in zip(gates, parts, strict=True)}
        states_new = (f64(x) @ f64(extra["weight_before"]).T,)
    z, f = np.tanh(a["z"]), sigmoid(a["f"])
    i = sigmoid(a["i"]) if "i" in gates else 1 - f
    c_new = f * f64(state[0]) + i * z
    output = sigmoid(a["o"]) * c_new if "o" in gates else c_new
    return output, (c_new, *states_new)


def highway(x, extra):
    """The highway's input: x, or its projection where the sizes differ."""
    shortcut = extra.get("weight_fit")
    return f64(x) if shortcut is None else f64(x) @ f64(shortcut).T


@reference(
    "author's code",
    lambda i, h: 3 * h * (i + 1) + 2 * h + (h * i if i != h else 0),
    variants=({}, {"highway_bias": -1.5}, {"rescale": False}),
)
def sru(x, state, W, U, b, extra):
    """Simple recurrent unit; gates ``n``, ``f``, ``r``.

    Source: Lei, Zhang, Wang, Dai & Artzi 2018, arXiv 1709.02755v5; the authors' sru/ops.py.

        f = s(W_f x + v_f * c + b_f)      r = s(W_r x + v_r * c + b_r)
        c' = f c + (1 - f) (W_n x)
        h = r c' + (1 - r) x alpha,  alpha = sqrt(1 + 2 exp(highway_bias)) or 1

    Conventions: both gates see the old c; no function between c' and h. Where x is not as wide as
    the state, it is projected and alpha stands before the projection, as the equation has it: the
    code puts alpha into the projection's initial values instead, which starts at the same function.
    """
    (c,) = state
    c = f64(c)
    f = sigmoid(sums("f", x, W, U, b) + f64(U["f"]) * c)
    r = sigmoid(sums("r", x, W, U, b) + f64(U["r"]) * c)
    c_new = f * c + (1 - f) * sums("n", x, W, U, b)
    alpha = np.sqrt(1 + 2 * np.exp(extra["highway_bias"])) if extra["rescale"] else 1.0
    return r * c_new + (1 - r) * alpha * highway(x, extra), (c_new,)


@reference(
    "author's code",
    lambda i, h: 3 * h * (i + 1) + (h * i if i != h else 0),
    variants=tuple({"activation": name} for name in ("tanh", "relu", "identity")),
)
def sru_v1(x, state, W, U, b, extra):
    """Simple recurrent unit as first published; gates ``n``, ``f``, ``r``.

    Source: Lei & Zhang 2017, arXiv 1709.02755v1; the authors' sru/sru_functional.py with v1=True
    (no v * c) and rescale=False, whose functions are tanh and none; relu from memory.

        f = s(W_f x + b_f)      r = s(W_r x + b_r)
        c' = f c + (1 - f) (W_n x)      h = r g(c') + (1 - r) x
    """
    (c,) = state
    f = sigmoid(sums("f", x, W, U, b))
    r = sigmoid(sums("r", x, W, U, b))
    c_new = f * f64(c) + (1 - f) * sums("n", x, W, U, b)
    g = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0.0), "identity": lambda a: a}
    return r * g[extra["activation"]](c_new) + (1 - r) * highway(x, extra), (c_new,)


def exponential(A):
    """The matrix exponential, by scaling, Taylor's series and squaring."""
    squarings = max(0, int(np.ceil(np.log2(max(np.abs(A).sum(), 1e-9)))) + 2)
    A = A / 2.0**squarings
    term = total = np.eye(len(A))
    for k in range(1, 25):
        term = term @ A / k
        total = total + term
    for _ in range(squarings):
        total = total @ total
    return total


@reference(
    "author's code",
    lambda i, h: i * (1 + h) + h + 16 + h * h + 16 * h,
    variants=({}, {"order": 3, "theta": 7.0}),
)
def lmu(x, state, W, U, b, extra):
    """Legendre memory unit; blocks ``u`` over (h, m), ``n`` over h, the fixed ``m_next``.

    Source: Voelker, Kajic & Eliasmith 2019, NeurIPS 32; the authors' keras-lmu, layers.py, with
    all its connections and a zero-order hold.

        u = e_x x + e_h h + e_m m
        m' = A m + B u
        h' = tanh(W_x x + W_h h + W_m m')
        A, B: the hold over one step of theta dm/dt = A_c m + B_c u,
        A_c[i, j] = (2i + 1) (-1 if i < j else (-1)^(i - j + 1)),  B_c[i] = (2i + 1) (-1)^i
    """
    h, m = (f64(part) for part in state)
    order = extra["order"]
    i, j = np.arange(order)[:, None], np.arange(order)[None, :]
    A_c = (2 * i + 1) * np.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    B_c = (2 * i + 1) * (-1.0) ** i
    block = np.zeros((order + 1, order + 1))
    block[:order] = np.concatenate([A_c, B_c], axis=1) / extra["theta"]
    held = exponential(block)
    both = np.concatenate([h, m], axis=-1)
    u = from_input("u", x, W, b) + from_hidden("u", both, U, b)
    m_new = m @ held[:order, :order].T + u * held[:order, order]
    a = from_input("n", x, W, b) + from_hidden("n", h, U, b)
    h_new = np.tanh(a + m_new @ f64(extra["weight_m"]).T)
    return h_new, (h_new, m_new)


@reference("author's code", lambda i, h: h * i + h * (h - 1) // 2 + h)
def exprnn(x, state, W, U, b, extra):
    """RNN with an orthogonal matrix by the exponential map; block ``n``.

    Source: Lezcano-Casado & Martinez-Rubio 2019, arXiv 1901.08428; the author's exprnn.py, which
    multiplies row vectors; the orientation B h is that of the paper, from memory.

        A = the skew matrix whose upper triangle is ``skew``, row by row      B = exp(A)
        h' = modrelu(B h + T x),  modrelu(a) = sign(a) max(|a| + shift, 0)
    """
    (h,) = state
    h = f64(h)
    width = h.shape[-1]
    A = np.zeros((width, width))
    if width > 1:
        A[np.triu_indices(width, 1)] = f64(extra["skew"])
    a = h @ exponential(A - A.T).T + sums("n", x, W, U, b)
    h_new = np.sign(a) * np.maximum(np.abs(a) + f64(extra["shift"]), 0.0)
    return h_new, (h_new,)


@reference(
    "memory",
    lambda i, h: h * (i + 1),
    variants=({}, {"leak": 0.3}),
)
def esn(x, state, W, U, b, extra):
    """Echo state network with leaky units; block ``n``, whose recurrent matrix is ``reservoir``.

    Source: Jaeger 2001, GMD Report 148; Jaeger, Lukosevicius, Popovici & Siewert 2007. From
    memory.

        h' = (1 - leak) h + leak tanh(W x + R h + b)
    """
    (h,) = state
    h = f64(h)
    a = sums("n", x, W, U, b) + h @ f64(extra["reservoir"]).T
    h_new = (1 - extra["leak"]) * h + extra["leak"] * np.tanh(a)
    return h_new, (h_new,)


SQUASH = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0.0)}
BOTH = tuple({"nonlinearity": name} for name in SQUASH)


@reference("secondary source", lambda i, h: h * (i + 2), variants=BOTH)
def indrnn(x, state, W, U, b, extra):
    """Independently recurrent network; block ``n`` (diagonal).

    Source: Li, Li, Cook, Zhu & Gao 2018, arXiv 1803.04831, from several reimplementations.

        h' = phi(W x + u * h + b)
    """
    (h,) = state
    a = sums("n", x, W, U, b) + f64(U["n"]) * f64(h)
    h_new = SQUASH[extra["nonlinearity"]](a)
    return h_new, (h_new,)


@reference("secondary source", lambda i, h: h * (i + 3), variants=(*BOTH, {"eps": 0.1}))
def layernorm_indrnn(x, state, W, U, b, extra):
    """Independently recurrent network whose input activations are normalised; block ``n``.

    Source: haste's LayerNormIndRNN, by its documentation ("to the input activations"); the place
    of the bias, after the norm, is as in haste's other cells.

        h' = phi(LN(W x) * gain_ih + u * h + b)
    """
    (h,) = state
    normed = standardise(f64(x) @ f64(W["n"]).T, extra["eps"]) * f64(extra["gain_ih"])
    a = normed + f64(b["n"][0]) + f64(b["n"][1]) + f64(U["n"]) * f64(h)
    h_new = SQUASH[extra["nonlinearity"]](a)
    return h_new, (h_new,)
