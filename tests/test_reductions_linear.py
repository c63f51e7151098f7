"""Reductions of the linear, diagonal and continuous-time cells to special cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import F64, in_form, normal, random_state, shake, tensors

from cellzoo import RNN
from cellzoo.zoo.lmu import delay_network


def make(name, input_size=3, hidden_size=4, **options):
    torch.manual_seed(0)
    rnn = RNN(name, input_size, hidden_size, dtype=F64, **options)
    shake(rnn, seed=sum(map(ord, name)))
    return rnn


@torch.no_grad()
def put(rnn, **values):
    """Set parameters, or blocks of a gate by `gate__block`, to tensors or numbers."""
    for name, value in values.items():
        if "__" in name:
            gate, block = name.split("__")
            target = getattr(rnn.gate_weights()[gate], block)
        else:
            target = rnn.get_parameter(f"{name}_l0")
        target.copy_(torch.as_tensor(value, dtype=F64).expand_as(target))


@torch.no_grad()
def share(source, target, gates):
    """Copy blocks gate by gate, from source to target."""
    theirs, ours = source.gate_weights(), target.gate_weights()
    for gate, other in gates.items():
        for block, value in zip(ours[gate], theirs[other], strict=True):
            if block is not None and value is not None:
                block.copy_(value)


def assert_alike(one, other):
    x, state = normal(7, 3, one.input_size).detach(), random_state(one, 3)
    got, want = one(x, in_form(state)), other(x, in_form(state))
    torch.testing.assert_close(got[0], want[0], rtol=1e-10, atol=1e-12)
    for a, b in zip(tensors(got[1]), tensors(want[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


# -- diagonal, masked and fixed weights --------------------------------------------------------


@pytest.mark.parametrize("nonlinearity", ["relu", "tanh"])
def test_an_indrnn_is_an_elman_whose_matrix_is_diagonal(nonlinearity):
    ind = make("indrnn", nonlinearity=nonlinearity)
    elman = make("elman", nonlinearity=nonlinearity)
    put(elman, weight_ih=ind.weight_ih_l0, bias_ih=ind.bias_ih_l0, bias_hh=0.0,
        weight_hh=torch.diag(ind.weight_hh_diagonal_l0))  # fmt: skip
    assert_alike(ind, elman)


def test_a_clockwork_of_one_module_is_an_elman():
    clock, elman = make("clockwork_rnn", groups=1), make("elman")
    put(elman, weight_ih=clock.weight_ih_l0, bias_ih=clock.bias_ih_l0, bias_hh=0.0,
        weight_hh=clock.weight_hh_l0)  # fmt: skip
    x = normal(7, 3, 3)
    torch.testing.assert_close(clock(x)[0], elman(x)[0], rtol=0, atol=0)


def test_a_clockworks_module_moves_with_its_period_and_sees_no_faster_one():
    clock = make("clockwork_rnn", hidden_size=8, groups=4)
    x = normal(17, 2, 3)
    output, (_, time) = clock(x)
    assert time.unique().tolist() == [17]
    moves = (output[1:] != output[:-1]).any(1)  # (steps, units); step 0 starts from 0
    for module in range(4):
        for unit in (2 * module, 2 * module + 1):
            when = [t for t in range(1, 17) if moves[t - 1, unit]]
            assert when == list(range(2**module, 17, 2**module))
    h = normal(1, 2, 8)
    start = torch.zeros(1, 2, 1, dtype=torch.long)
    for module in range(4):
        output, _ = clock(x, (h, start))
        (slope,) = torch.autograd.grad(output[..., 2 * module : 2 * module + 2].sum(), h)
        assert not slope[..., : 2 * module].any()
        assert slope[..., 2 * module :].all()


def test_an_echo_state_network_is_an_elman_with_its_reservoir():
    esn, elman = make("esn", hidden_size=12, connectivity=0.5), make("elman", hidden_size=12)
    assert torch.linalg.eigvals(esn.reservoir_l0).abs().max().item() == pytest.approx(0.9)
    assert 0.3 < esn.reservoir_l0.ne(0).double().mean() < 0.7
    put(elman, weight_ih=esn.weight_ih_l0, bias_ih=esn.bias_ih_l0, bias_hh=0.0,
        weight_hh=esn.reservoir_l0)  # fmt: skip
    assert_alike(esn, elman)
    assert "reservoir_l0" in esn.state_dict()
    assert "reservoir_l0" not in dict(esn.named_parameters())


def test_an_exprnns_matrix_is_a_rotation():
    rnn = make("exprnn", hidden_size=5)
    weight = rnn.cell().recurrent_weights()["weight_hh"]
    torch.testing.assert_close(weight @ weight.T, torch.eye(5, dtype=F64))
    assert torch.linalg.det(weight).item() == pytest.approx(1.0)
    put(rnn, weight_ih=0.0, shift=0.0)
    h = normal(1, 2, 5)
    output, _ = rnn(torch.zeros(9, 2, 3, dtype=F64), h)
    torch.testing.assert_close(output.norm(dim=-1), h.norm(dim=-1).expand(9, 2))


# -- linear recurrences ------------------------------------------------------------------------


@pytest.mark.parametrize("candidate", ["linear", "positive"])
def test_a_minlstm_whose_gates_are_complements_is_a_mingru(candidate):
    gru, lstm = make("mingru", candidate=candidate), make("minlstm", candidate=candidate)
    share(gru, lstm, {"i": "z", "n": "n", "f": "z"})
    assert_differ(gru, lstm)
    f = lstm.gate_weights()["f"]
    put(lstm, f__weight_ih=-f.weight_ih, f__bias_ih=-f.bias_ih)  # σ(−a) = 1 − σ(a)
    assert_alike(gru, lstm)


def assert_differ(one, other):
    x = normal(7, 3, one.input_size).detach()
    assert not torch.allclose(one(x)[0], other(x)[0])


def test_a_minlstm_keeps_its_shares_where_both_gates_are_closed():
    rnn = make("minlstm")
    put(rnn, f__weight_ih=0.0, i__weight_ih=0.0, f__bias_ih=-2000.0, i__bias_ih=-2000.0)
    x = normal(1, 2, 3)
    n = x @ rnn.gate_weights()["n"].weight_ih.T + rnn.gate_weights()["n"].bias_ih
    torch.testing.assert_close(rnn(x)[0], n / 2)


def test_the_qrnns_poolings_and_windows():
    wide, narrow = make("qrnn"), make("qrnn", window=1)
    share(wide, narrow, {g: g for g in "zfo"})
    x = normal(7, 3, 3)
    assert not torch.allclose(wide(x)[0], narrow(x)[0])
    put(wide, weight_before=0.0)
    torch.testing.assert_close(wide(x)[0], narrow(x)[0])
    three = make("qrnn", pooling="ifo", window=1)
    share(narrow, three, {g: g for g in "zfo"})
    share(narrow, three, {"i": "f"})
    i = three.gate_weights()["i"]
    put(three, i__weight_ih=-i.weight_ih, i__bias_ih=-i.bias_ih)
    assert_alike(three, narrow)
    one = make("qrnn", pooling="f", window=1)
    share(narrow, one, {g: g for g in "zf"})
    put(narrow, o__weight_ih=0.0, o__bias_ih=60.0)
    assert_alike(one, narrow)


def test_the_qrnns_window_holds_the_input_before():
    rnn = make("qrnn", pooling="f")
    put(rnn, weight_ih=0.0, bias_ih=0.0)
    x = normal(7, 3, 3).detach()
    changed = x.clone()
    changed[4] += 1
    equal = torch.isclose(rnn(x)[0], rnn(changed)[0]).all(-1).all(-1)
    assert equal.tolist() == [True] * 5 + [False] * 2  # step 4's input is seen at step 5


@pytest.mark.parametrize("sizes", [(4, 4), (3, 4)])
def test_an_sru_whose_gates_see_no_state_is_the_first_version(sizes):
    late = make("sru", *sizes, rescale=False)
    first = make("sru_v1", *sizes, activation="identity")
    share(late, first, {g: g for g in "nfr"})
    if sizes == (3, 4):
        put(first, weight_fit=late.weight_fit_l0)
    assert_differ(late, first)
    put(late, weight_hh_c_diagonal=0.0)
    assert_alike(late, first)


def test_an_sru_passes_its_scaled_input_by_where_the_output_gate_is_closed():
    rnn = make("sru", 4, 4, highway_bias=-1.5)
    put(rnn, r__weight_ih=0.0, r__bias_ih=-60.0, weight_hh_c_diagonal=0.0)
    x = normal(5, 2, 4)
    torch.testing.assert_close(rnn(x)[0], math.sqrt(1 + 2 * math.exp(-1.5)) * x)


def test_an_lru_is_a_sum_of_damped_oscillations():
    rnn = make("lru", 1, 4)
    x = torch.zeros(6, 1, 1, dtype=F64)
    x[0] = 1.0
    output, _ = rnn(x)
    p = {name: tensor.detach().numpy() for name, tensor in rnn.named_parameters()}
    decay = np.exp(-np.exp(p["nu_log_l0"]) + 1j * np.exp(p["theta_log_l0"]))
    re, im, skip = np.split(p["weight_ih_l0"], 3)
    entry = np.exp(p["gamma_log_l0"]) * (re + 1j * im)[:, 0]
    read = p["weight_re_l0"] + 1j * p["weight_im_l0"]
    want = np.stack([(read @ (decay**t * entry)).real for t in range(6)])
    want[0] += skip[:, 0]
    np.testing.assert_allclose(output[:, 0].detach().numpy(), want, atol=1e-12)


def test_an_lru_starts_on_its_ring():
    torch.manual_seed(0)
    cell = RNN("lru", 3, 4000, r_min=0.5, r_max=0.9, max_phase=0.3, init="paper").cell()
    radius, phase = torch.exp(-torch.exp(cell.nu_log)), torch.exp(cell.theta_log)
    assert 0.5 <= radius.min() < 0.51
    assert 0.89 < radius.max() <= 0.9
    assert radius.square().mean().item() == pytest.approx((0.5**2 + 0.9**2) / 2, abs=0.01)
    assert phase.max() <= 0.3
    torch.testing.assert_close(torch.exp(cell.gamma_log) ** 2, 1 - radius**2)
    assert cell.weight_re.std().item() == pytest.approx(4000**-0.5, rel=0.05)


def test_an_rglru_keeps_what_it_has_where_its_gate_is_closed():
    rnn = make("rglru")
    put(rnn, r__weight_ih=0.0, r__bias_ih=-60.0)
    h = normal(1, 2, 4)
    output, _ = rnn(normal(5, 2, 3), h)
    torch.testing.assert_close(output, h.expand(5, 2, 4), rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    cell = RNN("rglru", 3, 4000, dtype=F64).cell()
    powers = torch.exp(-torch.nn.functional.softplus(cell.decay)) ** cell.c
    assert 0.9 <= powers.min() < 0.901
    assert 0.998 < powers.max() <= 0.999
    assert powers.mean().item() == pytest.approx(0.9495, abs=0.002)


# -- differential equations --------------------------------------------------------------------


def test_a_gated_antisymmetric_network_with_an_open_gate_has_none():
    gated, plain = (
        make(name, step_size=0.3) for name in ("gated_antisymmetric_rnn", "antisymmetric_rnn")
    )
    share(gated, plain, {"n": "n"})
    assert_differ(gated, plain)
    put(gated, z__weight_ih=0.0, z__bias_ih=60.0)
    assert_alike(gated, plain)


def test_a_lipschitz_network_without_its_linear_part_is_antisymmetric():
    options = {"step_size": 0.3, "diffusion": 0.0}
    lipschitz = make("lipschitz_rnn", beta=1.0, **options)
    plain = make("antisymmetric_rnn", **options)
    share(lipschitz, plain, {"n": "n"})
    assert_differ(lipschitz, plain)
    put(lipschitz, m__weight_hh=0.0)
    assert_alike(lipschitz, plain)


def test_the_antisymmetric_matrix_only_turns_the_state():
    cell = make("antisymmetric_rnn", diffusion=0.25).cell()
    eigenvalues = torch.linalg.eigvals(cell.recurrent_weights()["weight_hh"])
    torch.testing.assert_close(eigenvalues.real, torch.full((4,), -0.25, dtype=F64))
    assert eigenvalues.imag.abs().max() > 0.1


@pytest.mark.parametrize("implicit", [False, True])
def test_an_undriven_cornn_is_a_damped_oscillator(implicit):
    rnn = make("cornn", implicit=implicit)
    put(rnn, weight_ih=0.0, bias_ih=0.0, weight_hh_y_z=0.0)
    dt, gamma, epsilon = 0.042, 2.7, 4.7
    damp = 1 / (1 + dt * epsilon) if implicit else 1 - dt * epsilon
    stiff = -dt * gamma / (1 + dt * epsilon) if implicit else -dt * gamma
    step = np.array([[1 + dt * stiff, dt * damp], [stiff, damp]])  # of (y, z)
    state = random_state(rnn, 2)
    _, (y, z) = rnn(torch.zeros(11, 2, 3, dtype=F64), state)
    start = np.stack([s[0].detach().numpy() for s in state])
    want = np.einsum("ij,j...->i...", np.linalg.matrix_power(step, 11), start)
    np.testing.assert_allclose(np.stack([y[0].detach(), z[0].detach()]), want, atol=1e-12)


def test_a_cornn_starts_as_one_linear_map_of_all_it_sees():
    torch.manual_seed(0)
    rnn = RNN("cornn", 100, 50, init="paper")
    for name, parameter in rnn.named_parameters():
        high = parameter.abs().max().item()
        assert 0.9 / 200**0.5 < high <= 1 / 200**0.5, name


def test_an_undriven_unicornn_conserves_its_energy():
    rnn = make("unicornn", time_step=0.2, alpha=2.0)
    put(rnn, weight_ih=0.0, bias_ih=0.0, weight_hh_y_diagonal=0.0)
    step = 0.2 * torch.sigmoid(rnn.control_l0)

    def energy(y, z):  # conserved by the symplectic Euler scheme
        return z**2 + 2.0 * y**2 - 2.0 * step * y * z

    state = random_state(rnn, 2)
    _, final = rnn(torch.zeros(200, 2, 3, dtype=F64), state)
    assert (final[0] - state[0]).abs().min() > 1e-3
    torch.testing.assert_close(energy(*final), energy(*state), rtol=1e-10, atol=1e-10)


def test_a_lem_whose_time_steps_are_zero_stands_still():
    rnn = make("lem")
    put(rnn, weight_ih=0.0, weight_hh_y=0.0, tz__bias_ih=-60.0, ty__bias_ih=-60.0)
    state = random_state(rnn, 2)
    _, final = rnn(normal(5, 2, 3), state)
    for got, want in zip(final, state, strict=True):
        torch.testing.assert_close(got, want)


def test_two_steps_of_an_ltc_are_one_of_twice_the_time_and_substeps():
    once, twice = make("ltc", unfolds=6), make("ltc", unfolds=3)
    twice.load_state_dict(once.state_dict())
    x, v = normal(1, 2, 3), normal(1, 2, 4, seed=1)
    dt = normal(1, 2, seed=2).detach().exp()
    want, _ = once(x, v, dt)
    got, _ = twice(x.expand(2, 2, 3), v, (dt / 2).expand(2, 2))
    torch.testing.assert_close(got[-1], want[0])


def test_the_forms_of_a_cfc():
    gated, free = make("cfc", backbone_units=5), make("cfc", backbone_units=5, mode="no_gate")
    free.load_state_dict(gated.state_dict())
    for rnn in (gated, free):
        put(rnn, tb__bias_hh=-2000.0)
    assert_alike(gated, free)  # t is 0: both are g alone
    pure = make("cfc", backbone_units=5, mode="pure")
    x, dt = normal(3, 2, 3), torch.full((3, 2), 1e9, dtype=F64)
    put(pure, w=0.5)
    torch.testing.assert_close(pure(x, dt=dt)[0], pure.amplitude_l0.expand(3, 2, 4))


def test_a_tau_gru_hears_its_state_after_the_delay_and_not_before():
    rnn, other = make("tau_gru", delay=3), make("tau_gru", delay=3)
    put(other, z__weight_hh=0.0)
    x = normal(9, 2, 3)
    equal = torch.isclose(rnn(x)[0], other(x)[0]).all(-1).all(-1)
    assert equal.tolist() == [True] * 4 + [False] * 5  # h is 0 at first, and again 3 steps later
    deaf = [make("tau_gru", delay=delay, alpha=0.0) for delay in (1, 5)]
    torch.testing.assert_close(deaf[0](x)[0], deaf[1](x)[0])


def test_the_legendre_memory_is_a_delay():
    """The polynomials are 1 at the far end of the window: the input there is the sum of m."""
    order, theta = 12, 40
    transition, entry = delay_network(order, theta)
    time = torch.arange(400, dtype=F64)
    signal = torch.sin(2 * math.pi * time / 60) + 0.5 * torch.cos(2 * math.pi * time / 45)
    m, read = torch.zeros(order, dtype=F64), []
    for u in signal:
        m = transition @ m + entry * u
        read.append(m.sum())
    assert (torch.stack(read)[200:] - signal[200 - theta : -theta]).abs().max() < 0.1


def test_an_lmu_without_its_memory_is_an_elman():
    lmu, elman = make("lmu", order=3), make("elman")
    share(lmu, elman, {"n": "n"})
    put(elman, bias_ih=0.0, bias_hh=0.0)
    x = normal(7, 3, 3)
    assert not torch.allclose(lmu(x)[0], elman(x)[0])
    put(lmu, weight_m=0.0)
    torch.testing.assert_close(lmu(x)[0], elman(x)[0])
