"""Reductions of cells related to the GRU: equalities where a part is zero, one or shared."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import F64, normal, random_state, shake
from torch import Tensor

from cellzoo import RNN

SIZES = (3, 4)


def make(name: str, **options) -> RNN:
    rnn = RNN(name, *options.pop("sizes", SIZES), dtype=F64, engine="loop", **options)
    shake(rnn, seed=sum(map(ord, name)))
    return rnn


@torch.no_grad()
def share(source: RNN, target: RNN, gates: dict[str, str], sign: float = 1.0) -> None:
    """Copy weights gate by gate, from source to target, and the sums of the biases."""
    for gate, other in gates.items():
        theirs, ours = source.gate_weights()[other], target.gate_weights()[gate]
        for name in ("weight_ih", "weight_hh"):
            block, wanted = getattr(ours, name), getattr(theirs, name)
            if block is not None:
                block.copy_(0 * block if wanted is None else sign * wanted)
        total = sum(b for b in (theirs.bias_ih, theirs.bias_hh) if b is not None)
        first, *rest = [b for b in (ours.bias_ih, ours.bias_hh) if b is not None]
        first.copy_(torch.as_tensor(sign * total).expand_as(first))
        for bias in rest:
            bias.zero_()


@torch.no_grad()
def fill(rnn: RNN, **values: float | Tensor) -> None:
    for name, value in values.items():
        parameter = rnn.get_parameter(f"{name}_l0")
        parameter.copy_(torch.as_tensor(value, dtype=F64).expand_as(parameter))


def constant_gate(rnn: RNN, gate: str, logit: Tensor | float) -> None:
    """Set a gate to the constant σ(logit)."""
    weights = rnn.gate_weights()[gate]
    with torch.no_grad():
        for block in weights:
            if block is not None:
                block.zero_()
        first = next(b for b in (weights.bias_ih, weights.bias_hh) if b is not None)
        first.copy_(torch.as_tensor(logit, dtype=F64).expand_as(first))


def outputs(rnn: RNN, x: Tensor | None = None) -> Tensor:
    x = normal(6, 3, rnn.input_size) if x is None else x
    state = tuple(s[..., : rnn.hidden_size] for s in random_state(rnn, 3))
    return rnn(x, state if len(state) > 1 else state[0])[0]


def assert_equal(one: RNN, other: RNN) -> None:
    torch.testing.assert_close(outputs(one), outputs(other), rtol=1e-12, atol=1e-12)


def assert_differ(one: RNN, other: RNN) -> None:
    assert not torch.allclose(outputs(one), outputs(other), atol=1e-3)


# -- relatives of the GRU ----------------------------------------------------------------------


def test_an_mgu_is_a_gru_whose_gates_are_tied():
    mgu, gru = make("mgu"), make("gru_v1")
    share(mgu, gru, {"r": "f", "n": "n"})
    share(mgu, gru, {"z": "f"}, sign=-1.0)  # the GRU's z keeps, the MGU's f overwrites
    assert_equal(mgu, gru)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(("family", "whole"), [("gru", "gru_v1"), ("mgu", "mgu")])
def test_the_reduced_gates_are_whole_ones_less_what_was_left_out(family, whole, number):
    reduced, parent = make(f"{family}{number}"), make(whole)
    share(reduced, parent, {"n": "n"})
    for gate in "rz" if family == "gru" else "f":
        sign = -1.0 if gate == "z" else 1.0
        if number == 3:
            constant_gate(parent, gate, sign * reduced.get_parameter(f"bias_{gate}_l0"))
        else:
            share(reduced, parent, {gate: gate}, sign)
    assert_equal(reduced, parent)


def test_a_refine_gate_of_one_half_refines_nothing():
    refined, gru = make("ur_gru"), make("gru_v1")
    share(refined, gru, {g: g for g in "rzn"})
    assert_differ(refined, gru)
    fill(refined, bias_u=0.0)
    constant_gate(refined, "refine", 0.0)
    assert_equal(refined, gru)


def test_a_refined_gate_goes_from_the_square_to_one_less_the_square():
    refined = make("ur_gru", sizes=(1, 1))
    fill(refined, bias_u=0.0)
    constant_gate(refined, "n", 0.0)  # h' = g h
    constant_gate(refined, "z", math.log(0.8 / 0.2))
    for logit, want in ((-50.0, 0.8**2), (50.0, 1 - 0.2**2)):
        constant_gate(refined, "refine", logit)
        h = torch.ones(1, 1, 1, dtype=F64)
        got = refined(torch.ones(1, 1, 1, dtype=F64), h)[0].item()
        assert got == pytest.approx(want, rel=1e-12)


def test_the_uniform_bias_enters_both_gates_with_opposite_signs():
    refined, moved = make("ur_gru"), make("ur_gru")
    with torch.no_grad():
        moved.bias_u_l0.zero_()
        weights = moved.gate_weights()
        weights["z"].bias_ih.add_(refined.bias_u_l0)
        weights["refine"].bias_ih.sub_(refined.bias_u_l0)
    assert_equal(refined, moved)


def test_miru1_is_a_gru_whose_update_gate_is_constant():
    miru, gru = make("miru1", update_coefficient=0.8), make("gru_v1")
    share(miru, gru, {"r": "r", "n": "n"})
    constant_gate(gru, "z", math.log(0.8 / 0.2))
    assert_equal(miru, gru)


def test_miru2_is_miru1_whose_reset_gate_is_constant():
    options = {"update_coefficient": 0.3}
    two, one = make("miru2", reset_coefficient=0.6, **options), make("miru1", **options)
    share(two, one, {"n": "n"})
    constant_gate(one, "r", math.log(0.6 / 0.4))
    assert_equal(two, one)


# -- mutations ---------------------------------------------------------------------------------


def test_mut2_is_a_gru_whose_reset_gate_takes_the_input_as_it_is():
    mut, gru = make("mut2", sizes=(4, 4)), make("gru_v1", sizes=(4, 4))
    share(mut, gru, {"r": "r", "n": "n"})
    share(mut, gru, {"z": "z"}, sign=-1.0)
    with torch.no_grad():
        gru.gate_weights()["r"].weight_ih.copy_(torch.eye(4))
    assert_equal(mut, gru)


def test_mut3_is_a_gru_where_tanh_of_h_is_h():
    mut, gru = make("mut3"), make("gru_v1")
    share(mut, gru, {"r": "r", "n": "n"})
    share(mut, gru, {"z": "z"}, sign=-1.0)
    assert_differ(mut, gru)
    for rnn in (mut, gru):
        with torch.no_grad():
            rnn.gate_weights()["z"].weight_hh.zero_()
    assert_equal(mut, gru)


def test_mut1_is_mut3_whose_gates_ignore_state_or_input_and_whose_content_is_tanh_of_x():
    one, three = make("mut1", sizes=(4, 4)), make("mut3", sizes=(4, 4))
    share(one, three, {g: g for g in "zrn"})  # MUT1's z sees no state
    with torch.no_grad():
        three.gate_weights()["n"].weight_ih.copy_(torch.eye(4))
        for rnn in (one, three):
            for gate in "zr":
                rnn.gate_weights()[gate].weight_ih.zero_()
    x = normal(6, 3, 4)
    torch.testing.assert_close(outputs(one, x), outputs(three, x.tanh()))


def test_an_input_of_another_width_is_projected():
    narrow, wide = make("mut2", sizes=(3, 4)), make("mut2", sizes=(4, 4))
    for rnn in (narrow, wide):
        with torch.no_grad():
            for gate in "zn":
                rnn.gate_weights()[gate].weight_ih.zero_()
    with torch.no_grad():
        wide.weight_hh_l0.copy_(narrow.weight_hh_l0)
        wide.bias_hh_l0.copy_(narrow.bias_hh_l0)
    x = normal(6, 3, 3)
    torch.testing.assert_close(
        outputs(narrow, x), outputs(wide, x @ narrow.get_parameter("weight_fit_l0").T)
    )


# -- gated connections through time and depth --------------------------------------------------


def test_one_highway_layer_is_an_update_gate_network():
    highway, ugrnn = make("rhn", depth=1), make("ugrnn")
    share(highway, ugrnn, {"c": "n1"})
    share(highway, ugrnn, {"g": "t1"}, sign=-1.0)
    assert_equal(highway, ugrnn)


def test_a_highway_layer_that_carries_all_is_not_there():
    deep, shallow = make("rhn", depth=3), make("rhn", depth=1)
    share(deep, shallow, {g: g for g in ("n1", "t1")})
    assert_differ(deep, shallow)
    for gate in ("t2", "t3"):
        constant_gate(deep, gate, -800.0)  # σ is 0 in float64
    assert_equal(deep, shallow)


def test_a_carry_gate_tied_to_the_transform_gate_is_coupled():
    free, coupled = make("rhn", depth=2, coupled=False), make("rhn", depth=2)
    gates = {g: g for g in ("n1", "t1", "n2", "t2")}
    share(coupled, free, gates)
    share(coupled, free, {"c1": "t1", "c2": "t2"}, sign=-1.0)
    assert_equal(coupled, free)


def test_the_intersection_networks_state_is_an_update_gate_networks():
    plus, ugrnn = make("intersection_rnn"), make("ugrnn")
    share(plus, ugrnn, {"c": "n", "g": "gh"})
    x, h = normal(6, 3, 3), normal(1, 3, 4)
    torch.testing.assert_close(plus(x, h)[1], ugrnn(x, h)[1], rtol=1e-12, atol=1e-12)


def test_the_intersection_networks_depth_gate_lets_the_input_through():
    plus = make("intersection_rnn", sizes=(4, 4))
    constant_gate(plus, "gy", 800.0)
    x = normal(6, 3, 4)
    torch.testing.assert_close(outputs(plus, x), x)
    constant_gate(plus, "gy", -800.0)
    assert outputs(plus, x).ge(0).all()  # the outputs of a relu


def test_fast_rnn_without_its_residual_is_a_simple_one():
    fast, elman = make("fastrnn"), make("elman")
    share(fast, elman, {"n": "n"})
    fill(fast, alpha=800.0, beta=-800.0)
    assert_equal(fast, elman)


def test_fast_grnn_with_shared_weights_is_an_update_gate_network():
    fast, ugrnn = make("fastgrnn"), make("ugrnn")
    weights, theirs = fast.gate_weights()["n"], ugrnn.gate_weights()
    with torch.no_grad():
        for gate, bias in (("c", "bias_n_l0"), ("g", "bias_z_l0")):
            theirs[gate].weight_ih.copy_(weights.weight_ih)
            theirs[gate].weight_hh.copy_(weights.weight_hh)
            theirs[gate].bias_ih.copy_(fast.get_parameter(bias))
    fill(fast, zeta=800.0, nu=-800.0)
    assert_equal(fast, ugrnn)


@pytest.mark.parametrize("name", ["fastrnn", "fastgrnn"])
def test_a_low_rank_is_a_product_of_two(name):
    thin, full = make(name, rank=2), make(name)
    for parameter, value in thin.named_parameters():
        if "weight_hh" not in parameter:
            fill(full, **{parameter.removesuffix("_l0"): value})
    fill(full, weight_hh=thin.weight_hh_1_l0.detach() @ thin.weight_hh_2_l0.detach())
    assert torch.linalg.matrix_rank(full.weight_hh_l0) == 2
    assert_equal(thin, full)


# -- bistable, additive and light cells --------------------------------------------------------


def test_a_neuromodulated_cell_with_diagonal_weights_is_a_bistable_one():
    bistable, modulated = make("brc"), make("nbrc")
    weights, theirs = bistable.gate_weights(), modulated.gate_weights()
    with torch.no_grad():
        for gate in "can":
            theirs[gate].weight_ih.copy_(weights[gate].weight_ih)
            theirs[gate].bias_ih.copy_(weights[gate].bias_ih)
        for gate in "ca":
            theirs[gate].weight_hh.copy_(weights[gate].weight_hh.diag())
    assert_equal(bistable, modulated)


@pytest.mark.parametrize(("logit", "kept"), [(2.0, True), (-2.0, False)])
def test_a_unit_is_bistable_where_a_is_above_one(logit, kept):
    rnn = make("brc", sizes=(1, 1))
    for parameter in rnn.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        rnn.gate_weights()["a"].bias_ih.fill_(logit)
    ends = [rnn(torch.zeros(500, 1, 1, dtype=F64), h * torch.ones(1, 1, 1, dtype=F64))[1].item()
            for h in (0.5, -0.5)]  # fmt: skip
    assert (ends[0] > 0.5 and ends[1] < -0.5) if kept else max(map(abs, ends)) < 1e-6


def test_a_chaos_free_network_forgets_without_input():
    rnn = make("cfn", bias=False)
    output, _ = rnn(torch.zeros(3000, 1, 3, dtype=F64), 5 * normal(1, 1, 4))
    assert output[-1].abs().max() < 1e-3
    assert output.abs().amax(-1).diff(dim=0).le(0).all()


def test_an_additive_network_adds_up():
    rnn = make("ran", nonlinearity="identity")
    constant_gate(rnn, "i", 800.0)
    constant_gate(rnn, "f", 800.0)
    x = normal(6, 3, 3)
    weights = rnn.gate_weights()["n"]
    want = (x @ weights.weight_ih.T + weights.bias_ih).cumsum(0)
    torch.testing.assert_close(rnn(x)[0], want)
    as_tanh = make("ran")
    with torch.no_grad():
        for parameter, value in zip(as_tanh.parameters(), rnn.parameters(), strict=True):
            parameter.copy_(value)
    torch.testing.assert_close(as_tanh(x)[0], want.tanh())


def test_the_twin_gates_of_a_network_without_recurrent_weights_are_one():
    rnn = make("atr")
    fill(rnn, weight_hh=0.0, bias_hh=0.0)
    x = normal(1, 3, 3)
    p, h = x @ rnn.weight_ih_l0.T, normal(1, 3, 4)
    torch.testing.assert_close(rnn(x, h)[0], p.sigmoid() * (p + h))


def test_a_minimal_rnn_without_latent_part_in_its_gate_sees_the_state_alone():
    minimal, light = make("minimal_rnn"), make("light_ru")
    fill(minimal, weight_uz=0.0)
    share(minimal, light, {"n": "z"})
    share(minimal, light, {"f": "u"}, sign=-1.0)
    assert_equal(minimal, light)


def test_star_is_light_ru_with_a_tanh_around_it():
    star, light = make("star"), make("light_ru")
    share(star, light, {"n": "z", "f": "k"})
    x, h = normal(1, 3, 3), normal(1, 3, 4)
    torch.testing.assert_close(star(x, h)[0], light(x, h)[0].tanh())


def test_sgrn_without_recurrent_weights_is_a_function_of_what_it_keeps():
    rnn = make("sgrn")
    fill(rnn, weight_hh=0.0, bias_hh=800.0)
    h = normal(1, 3, 4)
    torch.testing.assert_close(rnn(normal(1, 3, 3), h)[0], h.tanh())
    fill(rnn, bias_hh=-800.0)
    x = normal(1, 3, 3)
    torch.testing.assert_close(rnn(x, h)[0], (x @ rnn.weight_ih_l0.T).tanh())


def test_a_simple_gated_unit_without_weights_gives_the_contents_middle():
    for name, middle in (("sgu", math.log(2.0)), ("dsgu", 0.5)):
        rnn = make(name)
        for parameter in rnn.parameters():
            torch.nn.init.zeros_(parameter)
        with torch.no_grad():
            rnn.gate_weights()["z"].bias_ih.fill_(2.5)  # the hard sigmoid is 1 from 2.5 on
        assert rnn(normal(2, 3, 3))[0].sub(middle).abs().max() < 1e-12
        with torch.no_grad():
            rnn.gate_weights()["z"].bias_ih.fill_(-2.5)
        h = normal(1, 3, 4)
        torch.testing.assert_close(rnn(normal(1, 3, 3), h)[0], h)


# -- LiGRU's norms -----------------------------------------------------------------------------


def test_batch_norm_takes_scale_and_shift_of_the_inputs_projection_away_in_training_alone():
    rnn = make("ligru", eps=1e-12)
    x = normal(8, 4, 3)
    want = rnn.train()(x)[0]
    with torch.no_grad():
        rnn.weight_ih_l0.mul_(3)
    torch.testing.assert_close(rnn(x)[0], want)
    evaluated = rnn.eval()(x)[0]
    with torch.no_grad():
        rnn.weight_ih_l0.mul_(3)
    assert not torch.allclose(rnn(x)[0], evaluated)


def test_running_statistics_follow_training_and_serve_evaluation():
    rnn = make("ligru", momentum=1.0)
    x = normal(8, 4, 3)
    trained = rnn.train()(x)[0]
    wx = (x @ rnn.weight_ih_l0.T).flatten(0, 1)
    torch.testing.assert_close(rnn.running_mean_l0, wx.mean(0))
    torch.testing.assert_close(rnn.running_var_l0, wx.var(0))  # the unbiased variance
    before = rnn.running_mean_l0.clone()
    with torch.no_grad():
        rnn.running_var_l0.mul_(31 / 32)  # training divides by the biased variance
    torch.testing.assert_close(rnn.eval()(x)[0], trained)
    assert torch.equal(rnn.running_mean_l0, before)


def test_layer_norm_takes_the_recurrent_weights_scale_away():
    stable, plain = make("sligru", eps=1e-12).eval(), make("ligru", eps=1e-12).eval()
    share(stable, plain, {g: g for g in "nz"})
    x = normal(8, 4, 3)
    want = [rnn(x)[0] for rnn in (stable, plain)]
    for rnn in (stable, plain):
        with torch.no_grad():
            rnn.weight_hh_l0.mul_(3)
    torch.testing.assert_close(stable(x)[0], want[0])
    assert not torch.allclose(plain(x)[0], want[1])


# -- simple recurrent networks -----------------------------------------------------------------


def test_irnn_is_a_simple_network_with_relu():
    irnn, elman = make("irnn"), make("elman", nonlinearity="relu")
    share(irnn, elman, {"n": "n"})
    assert_equal(irnn, elman)


def test_irnn_starts_as_the_identity():
    rnn = RNN("irnn", 3, 4, init="paper", dtype=F64)
    assert torch.equal(rnn.weight_hh_l0, torch.eye(4, dtype=F64))
    assert rnn.bias_ih_l0.eq(0).all()
    h = normal(1, 2, 4).abs()
    assert torch.equal(rnn(torch.zeros(9, 2, 3, dtype=F64), h)[1], h)


def test_the_first_order_is_a_simple_network():
    first, third, elman = make("hornn", order=1), make("hornn", order=3), make("elman")
    share(first, elman, {"n": "n"})
    assert_equal(first, elman)
    with torch.no_grad():
        third.weight_ih_l0.copy_(first.weight_ih_l0)
        third.bias_ih_l0.copy_(first.bias_ih_l0)
        block = third.gate_weights()["n"].weight_hh
        block.zero_()
        block[:, 8:].copy_(first.weight_hh_l0)  # U_3 alone: three interleaved networks
    x = normal(9, 2, 3)
    turns = torch.stack([first(x[start::3])[0] for start in range(3)], 1).flatten(0, 1)
    torch.testing.assert_close(third(x)[0], turns)


def test_a_multiplicative_network_whose_factors_ignore_the_input_is_a_simple_one():
    product, elman = make("multiplicative_rnn", factor_size=2), make("elman")
    weights, theirs = product.gate_weights(), elman.gate_weights()["n"]
    with torch.no_grad():
        weights["m"].weight_ih.zero_()
        weights["m"].bias_ih.fill_(1.0)
        theirs.weight_ih.copy_(weights["n"].weight_ih)
        theirs.weight_hh.copy_(weights["n"].weight_hh @ weights["m"].weight_hh)
        theirs.bias_ih.copy_(weights["n"].bias_ih)
        theirs.bias_hh.zero_()
    assert_equal(product, elman)


def test_the_context_is_an_exponential_average_beside_the_hidden_state():
    rnn = make("scrn", context_size=2, alpha=0.9)
    x = normal(5, 3, 3)
    output, (h, s) = rnn(x)
    b = x @ rnn.gate_weights()["b"].weight_ih.T
    want = sum(0.1 * 0.9 ** (4 - t) * b[t] for t in range(5))
    torch.testing.assert_close(s[0], want)
    torch.testing.assert_close(output[-1], torch.cat([h[0], s[0]], -1))
    assert rnn.output_size == 6
    fill(rnn, weight_hs=0.0)
    with torch.no_grad():
        rnn.weight_hh_l0.zero_()
    a = x @ rnn.gate_weights()["n"].weight_ih.T + rnn.bias_hh_l0
    torch.testing.assert_close(rnn(x)[0][..., :4], a.sigmoid())
