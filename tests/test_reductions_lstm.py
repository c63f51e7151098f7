"""Reductions of cells related to the LSTM: equalities where a part is zero or saturated."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    F64,
    assert_outputs_equal,
    in_form,
    make,
    normal,
    random_state,
    shake,
    share,
    tensors,
)

from cellzoo import RNN
from cellzoo.cells.base import GateWeights
from cellzoo.zoo.lstm_variants import PeepholeLSTM

LSTM = {gate: gate for gate in "ifgo"}


def zero(*blocks: torch.Tensor | None) -> None:
    with torch.no_grad():
        for block in blocks:
            if block is not None:
                block.zero_()


def constant(weights: GateWeights, value: float) -> None:
    """Set the pre-activation of a gate to one number."""
    zero(*weights)
    with torch.no_grad():
        weights.bias_ih.fill_(value)


def copy_extra(source: RNN, target: RNN, *names: str, sign: float = 1.0) -> None:
    with torch.no_grad():
        for name in names:
            target.get_parameter(f"{name}_l0").copy_(sign * source.get_parameter(f"{name}_l0"))


def set_extra(rnn: RNN, **values: torch.Tensor | float) -> None:
    with torch.no_grad():
        for name, value in values.items():
            parameter = rnn.get_parameter(f"{name}_l0")
            parameter.copy_(torch.as_tensor(value, dtype=F64).expand_as(parameter))


# -- the search space --------------------------------------------------------------------------


def test_without_peepholes_the_vanilla_lstm_is_torchs():
    variant, lstm = make("greff_np"), make("lstm")
    share(lstm, variant, LSTM)
    assert_outputs_equal(variant, lstm)


@pytest.mark.parametrize(("variant", "off"), [("nig", "i"), ("nfg", "f"), ("nog", "o")])
def test_a_gate_that_is_switched_off_is_one(variant, off):
    without, vanilla = make(f"greff_{variant}"), make("peephole_lstm")
    left = "ifgo".replace(off, "")
    share(vanilla, without, {gate: gate for gate in left})
    copy_extra(vanilla, without, *(f"peephole_{gate}" for gate in left if gate != "g"))
    x = normal(6, 3, 3)
    assert not torch.allclose(without(x)[0], vanilla(x)[0])
    constant(vanilla.gate_weights()[off], 50.0)  # σ(50) = 1
    set_extra(vanilla, **{f"peephole_{off}": 0.0})
    assert_outputs_equal(without, vanilla)


@pytest.mark.parametrize(("variant", "gate"), [("niaf", "g"), ("noaf", None)])
def test_a_squashing_function_that_is_switched_off_is_the_identity_of_small_signals(variant, gate):
    without, vanilla = make(f"greff_{variant}"), make("peephole_lstm")
    share(vanilla, without, LSTM)
    copy_extra(vanilla, without, "peephole_i", "peephole_f", "peephole_o")
    x = normal(6, 3, 3)
    assert not torch.allclose(without(x)[0], vanilla(x)[0])
    with torch.no_grad():
        for rnn in (without, vanilla):
            for block in rnn.gate_weights()["g"]:
                block.mul_(1e-6)
    torch.testing.assert_close(without(x)[0], vanilla(x)[0], rtol=1e-9, atol=1e-15)


def test_coupled_gates_are_opposite_gates():
    cifg, vanilla = make("greff_cifg"), make("peephole_lstm")
    share(cifg, vanilla, {"i": "i", "g": "g", "o": "o"})
    share(cifg, vanilla, {"f": "i"}, sign=-1.0)  # σ(−a) = 1 − σ(a)
    copy_extra(cifg, vanilla, "peephole_i", "peephole_o")
    set_extra(vanilla, peephole_f=-cifg.get_parameter("peephole_i_l0"))
    assert_outputs_equal(cifg, vanilla)


def test_full_gate_recurrence_with_nine_zero_matrices_is_vanilla():
    full, vanilla = make("greff_fgr"), make("peephole_lstm")
    with torch.no_grad():
        for name in ("weight_ih", "bias_ih", "bias_hh"):
            full.get_parameter(f"{name}_l0").copy_(vanilla.get_parameter(f"{name}_l0"))
        ours, theirs = full.gate_weights(), vanilla.gate_weights()
        for gate in "ifgo":
            ours[gate].weight_hh[:, :4].copy_(theirs[gate].weight_hh)
    copy_extra(vanilla, full, "peephole_i", "peephole_f", "peephole_o")
    x, state = normal(6, 3, 3), random_state(full, 3)
    assert sum(p.numel() for p in full.parameters()) == 9 * 16 + sum(
        p.numel() for p in vanilla.parameters()
    )
    want = vanilla(x, state[:2])[0]
    assert not torch.allclose(full(x, state)[0], want)
    with torch.no_grad():
        for gate in "ifo":
            ours[gate].weight_hh[:, 4:].zero_()
    torch.testing.assert_close(full(x, state)[0], want)


# -- gates -------------------------------------------------------------------------------------


def test_the_first_lstm_never_forgets():
    first, lstm = make("lstm_1997", squash="tanh"), make("lstm")
    share(lstm, first, {gate: gate for gate in "igo"})
    constant(lstm.gate_weights()["f"], 50.0)
    assert_outputs_equal(first, lstm)


def test_the_first_lstms_squashing_functions_are_rescaled_tanhs():
    logistic, rescaled = make("lstm_1997"), make("lstm_1997", squash="tanh")
    share(logistic, rescaled, {gate: gate for gate in "igo"})
    with torch.no_grad():  # 4σ(a) − 2 = 2 tanh(a / 2) and 2σ(c) − 1 = tanh(c / 2)
        for block in rescaled.gate_weights()["g"]:
            block.mul_(0.5)
    x, (h, c) = normal(6, 3, 3), random_state(logistic, 3)
    torch.testing.assert_close(logistic(x, (h, c))[0], rescaled(x, (h, c / 2))[0])


def test_janet_with_beta_zero_is_a_gru_that_resets_nothing():
    janet, gru = make("janet", beta=0.0), make("gru")
    share(janet, gru, {"z": "f", "n": "g"})
    constant(gru.gate_weights()["r"], 50.0)
    assert_outputs_equal(janet, gru)
    shifted = make("janet")
    share(janet, shifted, {"f": "f", "g": "g"})
    assert not torch.allclose(shifted(normal(6, 3, 3))[0], janet(normal(6, 3, 3))[0])


class SharedGate(PeepholeLSTM):
    """An LSTM reduced to c: no output gate, no output activation, no peepholes."""

    gates = ("i", "f", "g")
    peepholes = ""
    squash_output = False


def test_janet_is_an_lstm_whose_input_gate_is_the_forget_gates_complement():
    janet, lstm = make("janet"), RNN(SharedGate, 3, 4, dtype=F64)
    share(janet, lstm, {"f": "f", "g": "g"})
    share(janet, lstm, {"i": "f"}, sign=-1.0)  # 1 − σ(f − β) = σ(β − f)
    with torch.no_grad():
        lstm.gate_weights()["i"].bias_ih.add_(janet.cell().beta)
    x, state = normal(6, 3, 3), random_state(janet, 3)[0]
    got, (h, c) = lstm(x, (state, state))
    torch.testing.assert_close((got, h), janet(x, state), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(c, h)


def test_a_refine_gate_of_one_half_refines_nothing():
    refined, coupled = make("ur_lstm"), make("cifg_lstm")
    share(refined, coupled, {"g": "g", "o": "o"})
    share(refined, coupled, {"i": "f"}, sign=-1.0)
    zero(*refined.gate_weights()["refine"])
    set_extra(refined, bias_u=0.0)
    assert_outputs_equal(refined, coupled)


@pytest.mark.parametrize(("refine", "effective"), [(50.0, 0.75), (-50.0, 0.25)])
def test_a_refine_gate_moves_the_forget_gate_by_its_square(refine, effective):
    rnn = make("ur_lstm")
    set_extra(rnn, bias_u=0.0)
    weights = rnn.gate_weights()
    for gate, value in (("f", 0.0), ("refine", refine), ("g", 0.0)):
        constant(weights[gate], value)
    h, c = random_state(rnn, 3)
    (_, new) = rnn(normal(1, 3, 3), (h, c))[1]
    torch.testing.assert_close(new, effective * c)


def test_uniform_gates_start_uniform():
    torch.manual_seed(0)
    for name in ("ur_lstm", "ur_gru"):
        values = RNN(name, 3, 2000, init="paper").get_parameter("bias_u_l0").sigmoid()
        assert values.min() >= 1 / 2000
        assert values.max() <= 1 - 1 / 2000
        assert abs(values.mean() - 0.5) < 0.03
        assert abs(values.var() - 1 / 12) < 0.01
        assert RNN(name, 3, 4, init="torch").get_parameter("bias_u_l0").eq(0).all()


def test_a_fixed_forget_factor_is_a_gate_that_reads_nothing():
    fixed, gated = make("sub_lstm", fixed_forget=True), make("sub_lstm")
    share(gated, fixed, {gate: gate for gate in "ioz"})
    constant(gated.gate_weights()["f"], 0.7)
    set_extra(fixed, forget=torch.tensor(0.7, dtype=F64).sigmoid())
    assert_outputs_equal(fixed, gated)


def test_open_master_gates_leave_an_lstm():
    """The last unit keeps its memory, as the last input master gate is 0 by definition."""
    ordered, lstm = make("on_lstm"), make("lstm")
    share(lstm, ordered, LSTM)
    with torch.no_grad():
        for rnn in (ordered, lstm):
            for gate in LSTM:
                rnn.gate_weights()[gate].weight_hh[:, -1].zero_()
        for gate, unit in (("master_f", 0), ("master_i", -1)):
            constant(ordered.gate_weights()[gate], 0.0)
            ordered.gate_weights()[gate].bias_ih[unit] = 50.0  # the softmax is one-hot
    x, state = normal(6, 3, 3), random_state(lstm, 3)
    got, want = ordered(x, state), lstm(x, state)
    torch.testing.assert_close(got[0][..., :-1], want[0][..., :-1])
    torch.testing.assert_close(got[1][1][..., -1], state[1][..., -1])


def test_units_of_a_chunk_share_their_master_gates():
    rnn = make("on_lstm", chunk_size=2)
    for gate in LSTM:
        zero(*rnn.gate_weights()[gate])
    h, _ = random_state(rnn, 3)
    (_, c) = rnn(normal(1, 3, 3), (h, torch.ones(1, 3, 4, dtype=F64)))[1]
    torch.testing.assert_close(c[..., 0::2], c[..., 1::2])
    assert not torch.allclose(c[..., 0], c[..., 2])
    with pytest.raises(ValueError, match="chunk_size must divide hidden_size 4, not 3"):
        RNN("on_lstm", 3, 4, chunk_size=3)


# -- memories ----------------------------------------------------------------------------------


def test_no_working_memory_connections_leave_an_lstm():
    wmc, lstm = make("wmc_lstm"), make("lstm")
    share(lstm, wmc, LSTM)
    x = normal(3, 2, 3)
    assert not torch.allclose(wmc(x)[0], lstm(x)[0])
    set_extra(wmc, weight_ci=0.0, weight_cf=0.0, weight_co=0.0)
    assert_outputs_equal(wmc, lstm)


def test_a_controller_that_sees_the_output_is_an_lstm():
    controlled, lstm = make("mc_lstm"), make("lstm")
    share(lstm, controlled, {"f": "f", "i": "i", "n": "g", "o": "o", "m": "o"})
    assert_outputs_equal(controlled, lstm)


def test_a_multiplicative_lstm_of_a_factor_of_one_is_an_lstm():
    multiplicative, lstm = make("multiplicative_lstm"), make("lstm")
    share(lstm, multiplicative, LSTM)
    set_extra(multiplicative, weight_mx=1 / 3, weight_mh=torch.eye(4, dtype=F64))
    x, state = normal(6, 3, 3).softmax(-1) * 3, random_state(lstm, 3)  # V x = 1
    torch.testing.assert_close(multiplicative(x, state), lstm(x, state))


def test_no_residual_leaves_the_vanilla_lstm():
    residual, vanilla = make("residual_lstm"), make("peephole_lstm")
    share(vanilla, residual, LSTM)
    copy_extra(vanilla, residual, "peephole_i", "peephole_f", "peephole_o")
    set_extra(residual, weight_fit=0.0, weight_p=torch.eye(4, dtype=F64))
    assert_outputs_equal(residual, vanilla)


def test_the_shortcut_is_the_identity_where_the_sizes_agree():
    same, wide = RNN("residual_lstm", 4, 4, dtype=F64), RNN("residual_lstm", 3, 4, dtype=F64)
    assert same.cell().weight_fit is None
    assert wide.cell().weight_fit.shape == (4, 3)
    shake(same)
    constant(same.gate_weights()["o"], 50.0)
    set_extra(same, peephole_o=0.0, weight_p=0.0)
    x = normal(5, 2, 4)
    torch.testing.assert_close(same(x)[0], x)


def test_a_nested_lstm_with_an_inner_copy_holds_what_the_outer_one_lets_through():
    """With open inner gates, no inner memory and content X + H: c' = tanh(tanh(f c + i g))."""
    nested, lstm = make("nested_lstm"), make("lstm")
    share(lstm, nested, LSTM)
    weights = nested.gate_weights()
    with torch.no_grad():
        for gate, value in (("i", 50.0), ("f", -50.0), ("g", 0.0), ("o", 50.0)):
            zero(*weights[f"inner_{gate}"])
            weights[f"inner_{gate}"].bias_hh.fill_(value)
        weights["inner_g"].weight_hh.copy_(torch.eye(4, dtype=F64).repeat(1, 2))
    x, (h, c, inner) = normal(1, 3, 3), random_state(nested, 3)
    _, (_, got, _) = nested(x, (h, c, inner))
    _, (_, want) = lstm(x, (h, c))
    torch.testing.assert_close(got, want.tanh().tanh())


# -- time --------------------------------------------------------------------------------------


def phased(**values: float) -> RNN:
    rnn = make("phased_lstm").eval()
    set_extra(rnn, **values)
    return rnn


def test_a_phased_lstm_that_is_fully_open_at_each_step_is_the_vanilla_lstm():
    rnn, vanilla = phased(period=1.0, shift=-0.125, open_ratio=0.25), make("peephole_lstm")
    share(vanilla, rnn, LSTM)
    copy_extra(vanilla, rnn, "peephole_i", "peephole_f", "peephole_o")
    x, (h, c, _) = normal(6, 3, 3), random_state(rnn, 3)
    start = torch.zeros(1, 3, 1, dtype=F64)
    torch.testing.assert_close(rnn(x, (h, c, start))[0], vanilla(x, (h, c))[0])


@pytest.mark.parametrize(
    ("phase", "openness"), [(0.05, 0.5), (0.1, 1.0), (0.15, 0.5), (0.2, 0.0), (0.9, 0.0)]
)
def test_the_time_gate_opens_and_closes_in_a_part_of_its_period(phase, openness):
    rnn = phased(period=10.0, shift=2.0, open_ratio=0.2)
    cell, time = rnn.cell(), torch.tensor([[32.0 + 10 * phase]], dtype=F64)
    want = torch.full((1, 4), openness, dtype=F64)
    torch.testing.assert_close(cell.time_gate(time), want, rtol=0, atol=1e-12)
    leak = 0.001 * phase if phase >= 0.2 else openness
    training = rnn.train().cell().time_gate(time)
    torch.testing.assert_close(training, torch.full_like(want, leak), rtol=0, atol=1e-12)


def test_a_phased_lstm_sums_the_elapsed_times():
    rnn = phased(period=10.0, shift=0.0, open_ratio=0.5)
    x, dt = normal(6, 2, 3), normal(6, 2).detach().exp()
    torch.testing.assert_close(rnn(x, None, dt)[1][2][0, :, 0], dt.sum(0))
    assert rnn(x)[1][2].eq(6).all()


# -- exponential gates -------------------------------------------------------------------------


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
@pytest.mark.parametrize("cell", ["slstm", "mlstm"])
def test_a_constant_in_the_input_gate_cancels(cell, forget):
    """Memory and normaliser grow by the same factor; mlstm's denominator must exceed its floor."""
    rnn = make(cell, forget=forget)
    x = normal(6, 3, 3)
    if cell == "mlstm":
        with torch.no_grad():
            rnn.gate_weights()["i"].bias_ih.add_(50.0)
    want = rnn(x)[0]
    with torch.no_grad():
        rnn.gate_weights()["i"].bias_ih.add_(30.0)
    torch.testing.assert_close(rnn(x)[0], want)


def test_heads_are_cells_of_their_own():
    whole, parts = make("mlstm", heads=2), [RNN("mlstm", 3, 2, dtype=F64) for _ in range(2)]
    for number, part in enumerate(parts):
        ours, theirs = part.gate_weights(), whole.gate_weights()
        with torch.no_grad():
            for gate in ours:
                rows = slice(number * len(ours[gate].bias_ih), None)
                for name in ("weight_ih", "bias_ih"):
                    block = getattr(ours[gate], name)
                    block.copy_(getattr(theirs[gate], name)[rows][: len(block)])
    x = normal(6, 3, 3)
    torch.testing.assert_close(whole(x)[0], torch.cat([part(x)[0] for part in parts], -1))


def test_slstm_is_a_weighted_mean_of_what_was_written():
    """h' = σ(o) Σ w z / Σ w, w the input gate times the forget gates since."""
    rnn = make("slstm")
    x = normal(5, 2, 3)
    for gate in "ifzo":
        zero(rnn.gate_weights()[gate].weight_hh, rnn.gate_weights()[gate].bias_hh)
    a = dict(zip("ifzo", (x @ rnn.weight_ih_l0.T + rnn.bias_ih_l0).chunk(4, -1), strict=True))
    weights = a["i"].exp()
    for later in range(1, 5):
        weights = torch.cat([weights[:later] * a["f"][later].sigmoid(), weights[later:]])
    mean = (weights * a["z"].tanh()).sum(0) / weights.sum(0)
    torch.testing.assert_close(rnn(x)[0][-1], a["o"][-1].sigmoid() * mean)


# -- strongly typed, layer norm ----------------------------------------------------------------


def test_a_t_lstm_that_ignores_the_previous_input_holds_a_t_rnn():
    two, one = make("t_lstm"), make("t_rnn")
    with torch.no_grad():
        for name in ("weight_ih_l0", "bias_ih_l0"):
            one.get_parameter(name).copy_(two.get_parameter(name)[:8])  # z and f, without o
    x = normal(6, 3, 3)
    assert not torch.allclose(two(x)[1][0], one(x)[1])
    set_extra(two, weight_previous=0.0)
    torch.testing.assert_close(two(x)[1][0], one(x)[1])


@pytest.mark.parametrize("name", ["t_gru", "t_lstm"])
def test_the_previous_input_acts_like_the_input_one_step_later(name):
    early, late = make(name), make(name)
    with torch.no_grad():
        late.weight_ih_l0.copy_(early.get_parameter("weight_previous_l0"))
        late.get_parameter("weight_previous_l0").zero_()
        early.weight_ih_l0.zero_()
    x = normal(6, 3, 3)
    shifted = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    torch.testing.assert_close(early(x)[0], late(shifted)[0])


def test_the_layer_norm_of_the_sum_takes_its_scale_and_shift_away():
    rnn = make("layernorm_elman", eps=1e-12)
    x = normal(6, 3, 3)
    want = rnn(x)[0]
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            rnn.get_parameter(name).mul_(3).add_(0.7)
    torch.testing.assert_close(rnn(x)[0], want)
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(3)
    assert not torch.allclose(rnn(x)[0], want)


@pytest.mark.parametrize(("norm", "apart"), [("gates", True), ("all", False)])
def test_the_layer_norm_of_the_candidate_is_its_own_or_that_of_all(norm, apart):
    rnn = make("layernorm_gru", norm=norm, eps=1e-12)
    x = normal(6, 3, 3)
    want = rnn(x)[0]
    with torch.no_grad():
        rnn.gate_weights()["n"].weight_hh.mul_(3)
        rnn.gate_weights()["n"].weight_ih.mul_(3)
    assert torch.allclose(rnn(x)[0], want) is apart


@pytest.mark.parametrize(
    "name", ["greff_fgr", "mc_lstm", "phased_lstm", "slstm", "mlstm", "t_lstm"]
)
def test_states_that_are_not_h_and_c_go_through_directions_and_layers(name):
    rnn = RNN(name, 3, 4, num_layers=2, bidirectional=True, dtype=F64)
    output, state = rnn(normal(5, 2, 3))
    assert output.shape == (5, 2, 8)
    again = rnn(normal(5, 2, 3), in_form(tensors(state)))[1]
    assert [s.shape for s in tensors(again)] == [s.shape for s in tensors(state)]
