"""Cells that equal each other for certain weights."""

from __future__ import annotations

import pytest
import torch
from helpers import F64, assert_outputs_equal, make, normal, random_state, share
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import cellzoo
from cellzoo import RNN

# -- equalities between cells ------------------------------------------------------------------


def test_peepholes_of_zero_are_an_lstm():
    peephole, lstm = make("peephole_lstm"), make("lstm")
    share(lstm, peephole, {g: g for g in "ifgo"})
    x = normal(3, 2, 3)
    assert not torch.allclose(peephole(x)[0], lstm(x)[0])
    with torch.no_grad():
        for gate in "ifo":
            peephole.get_parameter(f"peephole_{gate}_l0").zero_()
    assert_outputs_equal(peephole, lstm)


def test_cifg_is_an_lstm_whose_f_is_one_minus_i():
    cifg, lstm = make("cifg_lstm"), make("lstm")
    share(cifg, lstm, {"i": "i", "g": "g", "o": "o"})
    share(cifg, lstm, {"f": "i"}, sign=-1.0)  # σ(−a) = 1 − σ(a)
    assert_outputs_equal(cifg, lstm)


def test_the_grus_agree_where_nothing_is_reset_and_only_there():
    published, torchs = make("gru_v1"), make("gru")
    share(torchs, published, {g: g for g in "rzn"})
    x = normal(3, 2, 3)
    assert not torch.allclose(published(x)[0], torchs(x)[0])
    with torch.no_grad():
        for rnn in (published, torchs):
            weights = rnn.gate_weights()["r"]
            for block in weights:
                block.zero_()
            weights.bias_ih.fill_(50.0)  # σ(50) = 1
    assert_outputs_equal(published, torchs)


def test_the_layer_norm_takes_scale_and_shift_away_over_all_gates_together():
    rnn = make("layernorm_lstm", eps=1e-12)
    x = normal(6, 3, 3)
    want = rnn(x)[0]
    with torch.no_grad():
        rnn.weight_ih_l0.mul_(3)
        rnn.weight_hh_l0.mul_(0.2).add_(0.7)  # equal rows: U h is shifted by one number
    torch.testing.assert_close(rnn(x)[0], want)
    with torch.no_grad():
        rnn.gate_weights()["f"].weight_hh.mul_(3)  # the norm does not hide a change of one gate
    assert not torch.allclose(rnn(x)[0], want)


def test_the_layer_norms_parameters():
    rnn = RNN("layernorm_lstm", 3, 4)
    shapes = {name.removesuffix("_l0"): tuple(p.shape) for name, p in rnn.named_parameters()}
    assert shapes == {
        "weight_ih": (16, 3), "weight_hh": (16, 4), "bias_ih": (16,),
        "gain_ih": (16,), "gain_hh": (16,), "gain_c": (4,), "bias_c": (4,),
    }  # fmt: skip
    for gain in (rnn.gain_ih_l0, rnn.gain_hh_l0, rnn.gain_c_l0):
        assert gain.eq(1).all()
    assert rnn.bias_c_l0.eq(0).all()


def test_the_projection_is_a_product_with_the_output():
    rnn, wide = make("lstm", proj_size=2), make("lstm")
    h, c = torch.zeros(1, 3, 4, dtype=F64), normal(1, 3, 4)
    share(wide, rnn, {})
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(wide.weight_ih_l0)
        rnn.bias_ih_l0.copy_(wide.bias_ih_l0)
        rnn.bias_hh_l0.copy_(wide.bias_hh_l0)
    x = normal(1, 3, 3)
    output, (_, cell) = rnn(x, (torch.zeros(1, 3, 2, dtype=F64), c))
    want, (_, want_cell) = wide(x, (h, c))
    torch.testing.assert_close(output, want @ rnn.weight_hr_l0.T)
    torch.testing.assert_close(cell, want_cell)


# -- sizes and names ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gates"),
    [("lstm", "ifgo"), ("peephole_lstm", "ifgo"), ("layernorm_lstm", "ifgo"), ("cifg_lstm", "igo"),
     ("gru", "rzn"), ("gru_v1", "rzn"), ("elman", "n")],
)  # fmt: skip
def test_gate_weights_are_views_in_declared_order(name, gates):
    rnn = RNN(name, 3, 4, num_layers=2, bidirectional=True)
    for layer, reverse in ((0, False), (1, True)):
        suffix = f"_l{layer}" + "_reverse" * reverse
        weights = rnn.gate_weights(layer, reverse)
        assert list(weights) == list(gates)
        for number, blocks in enumerate(weights.values()):
            for parameter, block in blocks._asdict().items():
                fused = getattr(rnn, parameter + suffix, None)
                if fused is None:
                    assert block is None
                    continue
                assert len(fused) == 4 * len(gates)
                with torch.no_grad():
                    fused.zero_()
                    block.fill_(1.0)
                rows = fused.reshape(len(gates), -1).sum(1) / block.numel()
                assert rows.tolist() == [float(number == n) for n in range(len(gates))]
    with pytest.raises(IndexError, match="no layer 2"):
        rnn.gate_weights(2)


# -- the hand-written cell of i2h and h2h ------------------------------------------------------


class HandWritten(nn.Module):
    """The hand-written cell: two linear layers, rows in the order i, f, o, g."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.i2h = nn.Linear(input_size, 4 * hidden_size, dtype=F64)
        self.h2h = nn.Linear(hidden_size, 4 * hidden_size, dtype=F64)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def forward(self, x, state):
        h, c = (s.view(s.size(1), -1) for s in state)
        a = self.i2h(x) + self.h2h(h)
        gates = a[:, : 3 * self.hidden_size].sigmoid()
        i, f, o = gates.chunk(3, 1)
        g = a[:, 3 * self.hidden_size :].tanh()
        c = f * c + i * g
        h = o * c.tanh()
        return h, (h.unsqueeze(0), c.unsqueeze(0))

    def weights(self):
        return self.i2h.weight, self.i2h.bias, self.h2h.weight, self.h2h.bias


@given(
    batch=st.integers(1, 4),
    input_size=st.integers(1, 5),
    hidden_size=st.integers(1, 6),
    steps=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_the_hand_written_cell_becomes_an_rnn(batch, input_size, hidden_size, steps, seed):
    torch.manual_seed(seed)
    theirs = HandWritten(input_size, hidden_size)
    ours = cellzoo.from_i2h_h2h(*theirs.weights())
    x = normal(steps, batch, input_size, seed=seed)
    state = want_state = random_state(ours, batch, seed)
    for t in range(steps):
        want, want_state = theirs(x[t], want_state)
        got, state = ours(x[t : t + 1], state)
        torch.testing.assert_close(got[0], want, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state, want_state, rtol=1e-12, atol=1e-12)


def test_another_order_of_gates_is_another_cell():
    theirs = HandWritten(3, 4)
    x, state = normal(1, 2, 3), (normal(1, 2, 4), normal(1, 2, 4, seed=1))
    wrong = cellzoo.from_i2h_h2h(*theirs.weights(), gate_order="ifgo")
    assert not torch.allclose(wrong(x, state)[0][0], theirs(x[0], state)[0])
    with torch.no_grad():
        for weight in theirs.weights():
            weight.copy_(weight.unflatten(0, (4, -1))[[1, 3, 0, 2]].flatten(0, 1))  # f, g, i, o
    by_hand = cellzoo.from_i2h_h2h(*theirs.weights(), gate_order=("f", "g", "i", "o"))
    for parameter in by_hand.parameters():
        assert parameter.requires_grad
    x_gates = theirs.i2h.weight.chunk(4)
    for gate, rows in zip("fgio", x_gates, strict=True):
        torch.testing.assert_close(by_hand.gate_weights()[gate].weight_ih, rows)


def test_what_cannot_be_converted_is_refused():
    w, b, u, d = (t.detach() for t in HandWritten(3, 4).weights())
    for wrong in ("ifo", "iffo", "ifoz", ("i", "f", "o")):
        with pytest.raises(ValueError, match="i, f, g and o, once each"):
            cellzoo.from_i2h_h2h(w, b, u, d, gate_order=wrong)
    for arguments, name in [
        ((w[:-1], b, u, d), "i2h_weight"),
        ((w, b[:-1], u, d), "i2h_bias"),
        ((w, b, u[:-1], d), "h2h_weight"),
        ((w, b, u[:, :-1], d), "h2h_weight"),
        ((w, b, u, d[None]), "h2h_bias"),
        ((w, b, u[0], d), "h2h_weight"),
        ((w[0], b, u, d), "i2h_weight"),
    ]:
        with pytest.raises(ValueError, match=name):
            cellzoo.from_i2h_h2h(*arguments)
