"""Cells that step a differential equation, and those of two time scales."""

import math

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid


def stepped(extra):
    """A cell's elapsed time, (batch, 1), or 1."""
    return f64(extra.get("dt", 1.0))


def skew_part(M, diffusion):
    """Return M - M^T - gamma I."""
    M = f64(M)
    return M - M.T - diffusion * np.eye(len(M))


@reference(
    "secondary source",
    lambda i, h: h * (i + h + 1),
    variants=({}, {"step_size": 0.5, "diffusion": 0.3}),
)
def antisymmetric_rnn(x, state, W, U, b, extra):
    """Antisymmetric RNN; gate ``n``.

    Source: Chang, Chen, Haber & Chi 2019, "AntisymmetricRNN", arXiv 1902.09689, equation 12. From
    the baseline of that name in the code of Erichson et al. (LipschitzRNN), which applies the
    transposed matrix (the other sign of its skew part); the orientation here is from memory.

        h' = h + epsilon tanh((W_h - W_h^T - gamma I) h + V x + b)
    """
    (h,) = state
    h = f64(h)
    M = skew_part(U["n"], extra["diffusion"])
    step = np.tanh(h @ M.T + from_input("n", x, W, b))
    h_new = h + extra["step_size"] * step
    return h_new, (h_new,)


@reference(
    "secondary source",
    lambda i, h: h * (2 * i + h + 2),
    variants=({}, {"step_size": 0.5, "diffusion": 0.3}),
)
def gated_antisymmetric_rnn(x, state, W, U, b, extra):
    """Antisymmetric RNN with an input gate; gates ``z``, ``n``, which share one recurrent matrix.

    Source: Chang et al. 2019, arXiv 1902.09689, equations 14 and 15, from torchrecurrent's
    transcription of z and from memory.

        M = W_h - W_h^T - gamma I
        z = s(M h + V_z x + b_z)
        h' = h + epsilon z * tanh(M h + V_h x + b_h)
    """
    (h,) = state
    h = f64(h)
    Mh = h @ skew_part(U["n"], extra["diffusion"]).T
    z = sigmoid(Mh + from_input("z", x, W, b))
    h_new = h + extra["step_size"] * z * np.tanh(Mh + from_input("n", x, W, b))
    return h_new, (h_new,)


@reference(
    "author's code",
    lambda i, h: h * (i + 2 * h + 1),
    variants=({}, {"step_size": 0.4, "beta": 0.6, "diffusion": 0.2}),
)
def lipschitz_rnn(x, state, W, U, b, extra):
    """Lipschitz RNN, forward Euler; blocks ``m`` (the linear part) and ``n``.

    Source: Erichson, Azencot, Queiruga, Hodgkinson & Mahoney 2021, arXiv 2006.12070; the authors'
    models.py. The code writes row vectors times A, which is the transposed parameter; here the
    matrices act on columns, as the paper's equations are remembered.

        A = beta (M_A - M_A^T) + (1 - beta) (M_A + M_A^T) - gamma I, W alike from M_W
        h' = h + epsilon (A h + tanh(W h + U x + b))
    """
    (h,) = state
    h = f64(h)
    beta = extra["beta"]

    def made(M):
        M = f64(M)
        return beta * (M - M.T) + (1 - beta) * (M + M.T) - extra["diffusion"] * np.eye(len(M))

    linear = h @ made(U["m"]).T + b["m"][1]
    curved = np.tanh(h @ made(U["n"]).T + b["n"][1] + from_input("n", x, W, b))
    h_new = h + extra["step_size"] * (linear + curved)
    return h_new, (h_new,)


def activation(name, a):
    if name == "lecun_tanh":
        return 1.7159 * np.tanh(0.666 * a)
    if name == "tanh":
        return np.tanh(a)
    if name == "relu":
        return np.maximum(a, 0.0)
    if name == "silu":
        return a * sigmoid(a)
    assert name == "gelu"
    return 0.5 * a * (1.0 + np.vectorize(math.erf, otypes=[float])(a / math.sqrt(2.0)))


@reference(
    "author's code",
    lambda i, h: 128 * (i + h + 1) + 4 * h * 129,
    variants=(
        {},
        {"backbone_units": 5, "backbone_layers": 0},
        {"backbone_units": 5, "backbone_layers": 3, "activation": "silu"},
        {"backbone_units": 4, "activation": "gelu"},
        {"backbone_units": 4, "activation": "relu"},
        {"backbone_units": 4, "activation": "tanh", "mode": "no_gate"},
        {"backbone_units": 4, "mode": "pure"},
        {"backbone_layers": 0, "mode": "pure"},
    ),
)
def cfc(x, state, W, U, b, extra):
    """Closed-form continuous-time network; gates ``b1``, ``b2``, … (the backbone), ``g``, ``k``
    (the paper's g and h), ``ta``, ``tb`` (its f, as slope and offset in time).

    Source: Hasani et al. 2022, arXiv 2106.13898; the authors' ncps, torch/cfc_cell.py.

        u = the backbone of (x, h):  u <- phi(W u + b), layer by layer; none: (x, h) itself
        s = s(ta(u) dt + tb(u))
        default:  h' = tanh(g(u)) (1 - s) + s tanh(k(u))
        no_gate:  h' = tanh(g(u)) + s tanh(k(u))
        pure:     h' = A - A exp(-dt (|w| + |g(u)|)) g(u), A ``amplitude``
    """
    (h,) = state
    h, dt = f64(h), stepped(extra)

    def head(gate, u):
        if extra["backbone_layers"] == 0:
            return from_input(gate, x, W, b) + from_hidden(gate, h, U, b)
        return from_hidden(gate, u, U, b)

    u = None
    for layer in range(1, extra["backbone_layers"] + 1):
        gate = f"b{layer}"
        if layer == 1:
            a = from_input(gate, x, W, b) + from_hidden(gate, h, U, b)
        else:
            a = from_hidden(gate, u, U, b)
        u = activation(extra["activation"], a)
    first = head("g", u)
    if extra["mode"] == "pure":
        A, w = f64(extra["amplitude"]), f64(extra["w"])
        h_new = A - A * np.exp(-dt * (np.abs(w) + np.abs(first))) * first
        return h_new, (h_new,)
    s = sigmoid(head("ta", u) * dt + head("tb", u))
    first, second = np.tanh(first), np.tanh(head("k", u))
    h_new = first + s * second if extra["mode"] == "no_gate" else first * (1 - s) + s * second
    return h_new, (h_new,)


@reference(
    "author's code",
    lambda i, h: 3 * h + 4 * h * h + 4 * i * h + 2 * i,
    variants=({}, {"unfolds": 2, "epsilon": 1e-3}),
)
def ltc(x, state, W, U, b, extra):
    """Liquid time-constant network, fused solver; no gates.

    Source: Hasani, Lechner, Amini, Rus & Grosu 2021, arXiv 2006.04439; the authors' ncps,
    torch/ltc_cell.py, fully connected, without its output mapping.

        x <- x * input_scale + input_shift
        synapse from j to i:  w_ji s(sigma_ji (v_j - mu_ji)), and likewise from each input
        per substep of dt / unfolds, with cm = capacitance / (dt / unfolds):
        v <- (cm v + leak leak_potential + sum_j w s E_ji) / (cm + leak + sum_j w s + epsilon)

    Matrices are (source, target). Weights, leak and capacitance are kept positive by a softplus, as
    the code does with implicit_param_constraints; by default it clips them after each training
    step, which is no part of the equations.
    """
    (v,) = state
    v = f64(v)
    p = {k: f64(a) for k, a in extra.items() if isinstance(a, np.ndarray)}
    for name in ("weight", "sensory_weight", "leak", "capacitance"):
        p[name] = np.logaddexp(0.0, p[name])
    x = f64(x) * p["input_scale"] + p["input_shift"]

    def synapses(source, prefix=""):
        w = p[prefix + "weight"] * sigmoid(
            p[prefix + "sigma"] * (source[:, :, None] - p[prefix + "mu"])
        )
        return (w * p[prefix + "reversal"]).sum(1), w.sum(1)

    sensed, conductance = synapses(x, "sensory_")
    cm = p["capacitance"] / (stepped(extra) / extra["unfolds"])
    for _ in range(extra["unfolds"]):
        pulled, conducting = synapses(v)
        numerator = cm * v + p["leak"] * p["leak_potential"] + pulled + sensed
        v = numerator / (cm + p["leak"] + conducting + conductance + extra["epsilon"])
    return v, (v,)


@reference("author's code", lambda i, h: h * (i + 2 * h + 1), variants=({}, {"implicit": True}))
def cornn(x, state, W, U, b, extra):
    """Coupled oscillatory RNN; block ``n`` over (y, z).

    Source: Rusch & Mishra 2021, arXiv 2010.00951; the authors' sMNIST/network.py for the explicit
    scheme. The implicit one, whose damping sees the new z, is from memory (equation 3).

        z' = z + dt (tanh(W y + V z + U x + b) - gamma y - epsilon z)
        y' = y + dt z'
        implicit:  z' = (z + dt (tanh(...) - gamma y)) / (1 + dt epsilon)
    """
    y, z = (f64(part) for part in state)
    dt, gamma, epsilon = extra["time_step"], extra["gamma"], extra["epsilon"]
    both = np.concatenate([y, z], axis=-1)
    force = np.tanh(from_input("n", x, W, b) + from_hidden("n", both, U, b)) - gamma * y
    if extra["implicit"]:
        z_new = (z + dt * force) / (1 + dt * epsilon)
    else:
        z_new = z + dt * (force - epsilon * z)
    y_new = y + dt * z_new
    return y_new, (y_new, z_new)


@reference(
    "author's code", lambda i, h: h * (i + 3), variants=({}, {"time_step": 0.5, "alpha": 2.0})
)
def unicornn(x, state, W, U, b, extra):
    """Undamped independent controlled oscillatory RNN, one layer; block ``n`` (diagonal over y).

    Source: Rusch & Mishra 2021, arXiv 2103.05487; the authors' eigenWorms/network.py.

        z' = z - dt s(c) (tanh(w * y + V x + b) + alpha y)
        y' = y + dt s(c) z'

    c is ``control``.
    """
    y, z = (f64(part) for part in state)
    dt = extra["time_step"] * sigmoid(f64(extra["control"]))
    a = from_input("n", x, W, b) + f64(U["n"]) * y + f64(b["n"][1])
    z_new = z - dt * (np.tanh(a) + extra["alpha"] * y)
    y_new = y + dt * z_new
    return y_new, (y_new, z_new)


@reference("author's code", lambda i, h: 4 * h * (i + h + 2), variants=({}, {"time_step": 0.3}))
def lem(x, state, W, U, b, extra):
    """Long expressive memory; gates ``tz``, ``ty`` (the steps of z and y), ``nz``, ``ny``.

    Source: Rusch, Mishra, Erichson & Mahoney 2022, arXiv 2110.04744; the authors'
    FitzHughNagumo/network.py.

        dz = dt s(W_1 y + V_1 x + b_1)      dy = dt s(W_2 y + V_2 x + b_2)
        z' = (1 - dz) z + dz tanh(W_z y + V_z x + b_z)
        y' = (1 - dy) y + dy tanh(W_y z' + V_y x + b_y)
    """
    y, z = (f64(part) for part in state)
    dt = extra["time_step"]
    dz = dt * sigmoid(from_input("tz", x, W, b) + from_hidden("tz", y, U, b))
    dy = dt * sigmoid(from_input("ty", x, W, b) + from_hidden("ty", y, U, b))
    z_new = (1 - dz) * z + dz * np.tanh(from_input("nz", x, W, b) + from_hidden("nz", y, U, b))
    y_new = (1 - dy) * y + dy * np.tanh(from_input("ny", x, W, b) + from_hidden("ny", z_new, U, b))
    return y_new, (y_new, z_new)


@reference(
    "secondary source",
    lambda i, h: h * (i + h + 1),
    variants=({}, {"groups": 2}, {"groups": 1}),
)
def clockwork_rnn(x, state, W, U, b, extra):
    """Clockwork RNN; gate ``n``; states h and the number of steps taken.

    Source: Koutnik, Greff, Gomez & Schmidhuber 2014, arXiv 1402.3511, from reading notes and a
    reimplementation's description of it.

        unit i is active at step t if t mod T_i = 0
        active:  h_i' = tanh(W_i x + sum over j with T_j >= T_i of U_ij h_j + b_i)
        else:    h_i' = h_i

    Conventions: the first step is t = 0, at which all are active; T is ``period``.
    """
    h, t = state
    h = f64(h)
    T = np.asarray(extra["period"])
    masked = f64(U["n"]) * (T[None, :] >= T[:, None])
    proposed = np.tanh(from_input("n", x, W, b) + h @ masked.T + f64(b["n"][1]))
    h_new = np.where(t % T == 0, proposed, h)
    return h_new, (h_new, t + 1)


@reference(
    "secondary source",
    lambda i, h: 4 * h * (i + h + 2),
    variants=({}, {"delay": 1}, {"delay": 3, "time_step": 0.4, "alpha": 0.7, "beta": 1.3}),
)
def tau_gru(x, state, W, U, b, extra):
    """GRU with weighted time-delay feedback; gates ``u``, ``z``, ``g``, ``a``.

    Source: Erichson, Lim & Mahoney 2025, arXiv 2212.00228, from torchrecurrent's transcription;
    the weights alpha and beta and the step dt from memory.

        u = tanh(W_1 h + U_1 x)      z = tanh(W_2 h_delayed + U_2 x)
        g = dt s(W_3 h + U_3 x)      a = s(W_4 h + U_4 x)
        h' = (1 - g) h + g (beta u + alpha a z)

    Conventions: the delayed state is that of ``delay`` steps before h; ``history`` holds the
    states before h, the oldest first.
    """
    h, history = (f64(part) for part in state)
    width = h.shape[-1]
    delayed = history[:, :width]
    u = np.tanh(from_input("u", x, W, b) + from_hidden("u", h, U, b))
    z = np.tanh(from_input("z", x, W, b) + from_hidden("z", delayed, U, b))
    g = extra["time_step"] * sigmoid(from_input("g", x, W, b) + from_hidden("g", h, U, b))
    a = sigmoid(from_input("a", x, W, b) + from_hidden("a", h, U, b))
    h_new = (1 - g) * h + g * (extra["beta"] * u + extra["alpha"] * a * z)
    history_new = np.concatenate([history[:, width:], h], axis=-1)
    return h_new, (h_new, history_new)
