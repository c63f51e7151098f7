"""Compare our cells with torchrecurrent's under the same weights; write results.csv and the table.

    python -m venv peer && peer/bin/pip install torchrecurrent==0.2.5 torch==2.13.0 numpy rich
    PYTHONPATH=. peer/bin/python experiments/agreement/compare.py

Each pair runs eight steps from its initial state in float64. The weights of our cell are random
and copied to theirs: `W("r n")` is our input matrices of the gates r and n, one below the other, in
their order. A bias that a pair does not name is zero in theirs.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchrecurrent
from torch import Tensor, nn

from cellzoo import RNN, GatedCell

F64 = torch.float64
HERE = Path(__file__).parent
STEPS, BATCH = 8, 3
Weights = Callable[[GatedCell], Tensor]


def W(gates: str) -> Weights:
    """Return our input matrices of these gates."""
    return lambda cell: torch.cat([cell.gate_weights()[g].weight_ih for g in gates.split()])


def U(gates: str) -> Weights:
    """Return our recurrent blocks of these gates."""
    return lambda cell: torch.cat([cell.gate_weights()[g].weight_hh for g in gates.split()])


def b(gates: str) -> Weights:
    """Return our biases of these gates; the sum, where a gate has two."""

    def total(cell: GatedCell, gate: str) -> Tensor:
        biases = [bias for bias in cell.gate_weights()[gate][2:] if bias is not None]
        return sum(biases) if biases else torch.zeros(cell.hidden_size, dtype=F64)

    return lambda cell: torch.cat([total(cell, gate) for gate in gates.split()])


def P(names: str) -> Weights:
    """Return our parameters of these names."""
    return lambda cell: torch.cat([getattr(cell, name) for name in names.split()])


def EYE(cell: GatedCell) -> Tensor:
    """Return the identity, where they have a matrix and the paper has none."""
    return torch.eye(cell.hidden_size, dtype=F64)


def ZEROS(cell: GatedCell) -> Tensor:
    """Return a zero bias, where they have a bias and the paper has none."""
    return torch.zeros(cell.hidden_size, dtype=F64)


def both(*parts: Weights) -> Weights:
    """Stack the parts, one below the other."""
    return lambda cell: torch.cat([part(cell) for part in parts])


def columns(name: str, number: int) -> Weights:
    """Return the columns of one operand of a weight that acts on two."""
    return lambda cell: getattr(cell, name).chunk(2, 1)[number]


def normed(gates: str) -> Weights:
    """Return our input matrices times the gain of a batch norm with statistics 0 and 1."""
    return lambda cell: torch.cat(
        [
            cell.gate_weights()[g].weight_ih * cell.gain_ih[cell.layout.x_rows[g], None]
            for g in gates.split()
        ]
    )


@dataclass
class Pair:
    """A cell of ours and one of theirs.

    Attributes:
        ours, theirs: their names.
        weights: our values for their parameters, by their names.
        options, their_options: the arguments of each cell.
        zero: our blocks, by kind and gate, that are zero in both.
        separate: whether theirs returns an output apart from its state.
        delay: the steps by which the caller of theirs must delay the state.
        output: maps our output to theirs.
        note: the deciding equation, or the change that makes the two equal.
    """

    ours: str
    theirs: str
    weights: Mapping[str, Weights]
    options: Mapping[str, Any] = field(default_factory=dict)
    their_options: Mapping[str, Any] = field(default_factory=dict)
    zero: Sequence[tuple[str, str]] = ()
    separate: bool = False
    delay: int = 0
    output: Callable[[Tensor], Tensor] = lambda output: output
    note: str = ""


class SlopeOfTheano(nn.Module):
    """The hard sigmoid 0.2 a + 0.5 within [0, 1]."""

    def forward(self, a: Tensor) -> Tensor:
        return (0.2 * a + 0.5).clamp(0, 1)


PAIRS = [
    Pair("antisymmetric_rnn", "AntisymmetricRNNCell",
         {"weight_ih": W("n"), "weight_hh": U("n"), "bias_ih": b("n")},
         {"step_size": 0.3, "diffusion": 0.1}, {"epsilon": 0.3, "gamma": 0.1}),
    Pair("gated_antisymmetric_rnn", "GatedAntisymmetricRNNCell",
         {"weight_ih": W("z n"), "weight_hh": U("n"), "bias_ih": b("z n")},
         {"step_size": 0.3, "diffusion": 0.1}, {"epsilon": 0.3, "gamma": 0.1}),
    Pair("atr", "ATRCell", {"weight_ih": W("p"), "weight_hh": U("p"), "bias_hh": b("p")}),
    Pair("brc", "BRCell", {"weight_ih": W("a c n"), "weight_hh": U("a c"), "bias_ih": b("a c n")}),
    Pair("nbrc", "NBRCell",
         {"weight_ih": W("a c n"), "weight_hh": U("a c"), "bias_ih": b("a c n")}),
    Pair("cfn", "CFNCell",
         {"weight_ih": W("theta eta n"), "weight_hh": U("theta eta"), "bias_ih": b("theta eta n")}),
    Pair("cornn", "coRNNCell",
         {"weight_ih": W("n"), "weight_hh": columns("weight_hh_y_z", 0),
          "weight_ch": columns("weight_hh_y_z", 1), "bias_ih": b("n")},
         {"time_step": 0.3, "gamma": 2.0, "epsilon": 3.0},
         {"dt": 0.3, "gamma": 2.0, "epsilon": 3.0}),
    Pair("fastrnn", "FastRNNCell",
         {"weight_ih": W("n"), "weight_hh": U("n"), "bias_ih": b("n"), "alpha": P("alpha"),
          "beta": P("beta")}),
    Pair("fastgrnn", "FastGRNNCell",
         {"weight_ih": W("n"), "weight_hh": U("n"), "bias_ih": P("bias_z bias_n"),
          "zeta": P("zeta"), "nu": P("nu")},
         note="the gate is z = σ(W x + U h + b_z), also by default in the authors' code; theirs is "
         "tanh by default"),
    Pair("fastgrnn", "FastGRNNCell",
         {"weight_ih": W("n"), "weight_hh": U("n"), "bias_ih": P("bias_z bias_n"),
          "zeta": P("zeta"), "nu": P("nu")}, {}, {"nonlinearity": "sigmoid"},
         note="with nonlinearity=sigmoid for their gate"),
    Pair("indrnn", "IndRNNCell", {"weight_ih": W("n"), "vector_u": U("n"), "bias_ih": b("n")},
         {"nonlinearity": "relu"}, {"nonlinearity": "relu"}),
    Pair("intersection_rnn", "IntersectionRNNCell",
         {"weight_ih": W("y n gy gh"), "weight_hh": U("y n gy gh"), "bias_ih": b("y n gy gh")},
         separate=True),
    Pair("janet", "JANETCell", {"weight_ih": W("f g"), "weight_hh": U("f g"), "bias_ih": b("f g")},
         {"beta": 0.75}, {"beta": 0.75}),
    Pair("lem", "LEMCell",
         {"weight_ih": W("ty tz nz ny"), "weight_hh": U("ty tz nz"), "weight_ch": U("ny"),
          "bias_ih": b("ty tz nz ny")}, {"time_step": 0.7}, {"dt": 0.7},
         note="y' takes the new z: y' = (1 − t_y) y + t_y tanh(U_y z' + W_y x + b_y), the paper's "
         "equation 3 and the authors' code; theirs takes the old z"),
    Pair("lem", "LEMCell",
         {"weight_ih": W("ty tz nz ny"), "weight_hh": U("ty tz nz"), "weight_ch": U("ny"),
          "bias_ih": b("ty tz nz ny")}, {"time_step": 0.7}, {"dt": 0.7},
         zero=[("weight_hh", "ny")], note="without U_y"),
    Pair("light_ru", "LightRUCell",
         {"weight_ih": W("n f"), "weight_hh": U("f"), "bias_ih": b("n f")}),
    Pair("ligru", "LiGRUCell", {"weight_ih": W("z n"), "weight_hh": U("z n"), "bias_ih": b("z n")},
         note="z = σ(BN(W_z x) + U_z h), and likewise the content, with batch normalisation; "
         "theirs has none"),
    Pair("ligru", "LiGRUCell",
         {"weight_ih": normed("z n"), "weight_hh": U("z n"), "bias_ih": b("z n")}, {"eps": 1e-15},
         note="with the gain of our batch normalisation in their weights, its statistics 0 and 1"),
    Pair("mc_lstm", "MCLSTMCell",
         {"weight_ih": W("f i o m n"), "weight_hh": U("f i o m n"), "bias_ih": b("f i o m n")},
         separate=True),
    Pair("mgu", "MGUCell", {"weight_ih": W("f n"), "weight_hh": U("f n"), "bias_ih": b("f n")}),
    Pair("minimal_rnn", "MinimalRNNCell",
         {"weight_ih": W("z"), "weight_hh": U("u"), "weight_mm": P("weight_uz"), "bias_ih": b("z"),
          "bias_hh": b("u")}),
    Pair("miru1", "MiRU1Cell", {"weight_ih": W("r n"), "weight_hh": U("r n"), "bias_ih": b("r n")},
         {"update_coefficient": 0.7}, {"update_coefficient": 0.7}),
    Pair("miru2", "MiRU2Cell", {"weight_ih": W("n"), "weight_hh": U("n"), "bias_ih": b("n")},
         {"update_coefficient": 0.7, "reset_coefficient": 0.2},
         {"update_coefficient": 0.7, "reset_coefficient": 0.2}),
    Pair("multiplicative_lstm", "MultiplicativeLSTMCell",
         {"weight_ih": both(P("weight_mx"), W("i f g o")), "weight_hh": P("weight_mh"),
          "weight_mh": U("i f g o"), "bias_ih": both(ZEROS, b("i f g o"))}),
    Pair("mut1", "MUT1Cell",
         {"weight_ih": both(W("z r"), EYE), "weight_hh": U("r n"),
          "bias_ih": both(b("z r"), ZEROS), "bias_hh": both(ZEROS, b("n"))}),
    Pair("mut2", "MUT2Cell",
         {"weight_ih": both(W("z"), EYE, W("n")), "weight_hh": U("z r n"), "bias_hh": b("z r n")}),
    Pair("mut3", "MUT3Cell",
         {"weight_ih": W("z r n"), "weight_hh": U("z r n"), "bias_ih": b("z r n")}),
    Pair("nas", "NASCell",
         {"weight_ih": W("a0 a1 a2 a3 a4 a5 a6 a7"), "weight_hh": U("a0 a1 a2 a3 a4 a5 a6 a7"),
          "bias_hh": b("a0 a1 a2 a3 a4 a5 a6 a7")},
         note="relu(W_3 x ⊙ (U_3 h + b_3)), a product, in TensorFlow's NASCell (the paper has a "
         "figure, no equation); theirs adds the two"),
    Pair("nas", "NASCell",
         {"weight_ih": W("a0 a1 a2 a3 a4 a5 a6 a7"), "weight_hh": U("a0 a1 a2 a3 a4 a5 a6 a7"),
          "bias_hh": b("a0 a1 a2 a3 a4 a5 a6 a7")},
         zero=[("weight_ih", "a3"), ("weight_hh", "a3"), ("bias_hh", "a3")],
         note="without gate a3"),
    Pair("lstm_1997", "OriginalLSTMCell",
         {"weight_ih": W("i g o"), "weight_hh": U("i g o"), "bias_ih": b("i g o")},
         note="the squashing functions are 4σ − 2 and 2σ − 1 (appendix A.1); theirs are tanh"),
    Pair("lstm_1997", "OriginalLSTMCell",
         {"weight_ih": W("i g o"), "weight_hh": U("i g o"), "bias_ih": b("i g o")},
         {"squash": "tanh"}, note="with squash=tanh for ours"),
    Pair("peephole_lstm", "PeepholeLSTMCell",
         {"weight_ih": W("i f g o"), "weight_hh": U("i f g o"), "bias_ih": b("i f g o"),
          "weight_ph": P("peephole_i peephole_f peephole_o")}),
    Pair("ran", "RANCell", {"weight_ih": W("n i f"), "weight_hh": U("i f"), "bias_ih": b("i f")},
         zero=[("bias_ih", "n")], note="their content has no bias"),
    Pair("residual_lstm", "ResLSTMCell",
         {"weight_ih": W("i f g o"), "weight_hh": U("i f g o"), "bias_ih": b("i f g o"),
          "weight_ph": P("peephole_i peephole_f peephole_o"), "weight_proj": P("weight_p"),
          "weight_res": EYE}),
    Pair("scrn", "SCRNCell",
         {"weight_ih": W("b n"), "weight_hh": both(U("n"), EYE),
          "weight_ch": both(P("weight_hs"), lambda cell: 0 * EYE(cell)),
          "bias_hh": both(b("n"), ZEROS)}, {"alpha": 0.75}, {"alpha": 0.75},
         output=lambda output: output[..., :4].tanh(),
         note="h' = σ(A x + R h + P s'), R acting on h itself; theirs feeds the output layer's "
         "f(U h' + V s') back in its place"),
    Pair("scrn", "SCRNCell",
         {"weight_ih": W("b n"), "weight_hh": both(U("n"), EYE),
          "weight_ch": both(P("weight_hs"), lambda cell: 0 * EYE(cell)),
          "bias_hh": both(b("n"), ZEROS)}, {"alpha": 0.75}, {"alpha": 0.75},
         output=lambda output: output[..., :4].tanh(),
         zero=[("weight_hh", "n")], note="without R"),
    Pair("sgrn", "SGRNCell", {"weight_ih": W("f"), "weight_hh": U("f"), "bias_hh": b("f")}),
    Pair("sgu", "SGUCell", {"weight_ih": W("g z"), "weight_hh": U("g z"), "bias_ih": b("g z")},
         note="undecided: ours has the hard sigmoid of Theano and Keras, 0.2 a + 0.5; theirs that "
         "of PyTorch, a/6 + 0.5; the paper's text was not seen"),
    Pair("sgu", "SGUCell", {"weight_ih": W("g z"), "weight_hh": U("g z"), "bias_ih": b("g z")},
         {}, {"gate_nonlinearity": SlopeOfTheano()}, note="with Theano's hard sigmoid for theirs"),
    Pair("dsgu", "DSGUCell",
         {"weight_ih": W("g z"), "weight_hh": U("g z"), "weight_ho": U("o"), "bias_ih": b("g z")},
         note="undecided: the hard sigmoid, as for sgu"),
    Pair("dsgu", "DSGUCell",
         {"weight_ih": W("g z"), "weight_hh": U("g z"), "weight_ho": U("o"), "bias_ih": b("g z")},
         {}, {"gate_nonlinearity": SlopeOfTheano()}, note="with Theano's hard sigmoid for theirs"),
    Pair("star", "STARCell", {"weight_ih": W("z k"), "weight_hh": U("k"), "bias_ih": b("z k")}),
    Pair("tau_gru", "tauGRUCell",
         {"weight_ih": W("u z g a"), "weight_hh": U("u z g a"), "bias_ih": b("u z g a")},
         {"delay": 3}, delay=3),
    Pair("t_rnn", "TRNNCell", {"weight_ih": W("z f"), "bias_ih": b("z f")}),
    Pair("t_gru", "TGRUCell",
         {"weight_ih": W("z f o"), "weight_hh": P("weight_previous"), "bias_ih": b("z f o")}),
    Pair("t_lstm", "TLSTMCell",
         {"weight_ih": W("z f o"), "weight_hh": P("weight_previous"), "bias_ih": b("z f o")},
         separate=True),
    Pair("ugrnn", "UGRNNCell", {"weight_ih": W("c g"), "weight_hh": U("c g"), "bias_ih": b("c g")}),
    Pair("unicornn", "UnICORNNCell",
         {"weight_ih": W("n"), "weight_hh": U("n"), "weight_ch": P("control"), "bias_ih": b("n")},
         {"time_step": 0.3, "alpha": 0.9}, {"dt": 0.3, "alpha": 0.9}),
    Pair("wmc_lstm", "WMCLSTMCell",
         {"weight_ih": W("i f g o"), "weight_hh": U("i f g o"), "bias_ih": b("i f g o"),
          "weight_mh": P("weight_ci weight_cf weight_co")}),
]  # fmt: skip


def pair_up(pair: Pair) -> tuple[RNN, nn.Module]:
    """Build both cells with the same weights, I = H = 4."""
    torch.manual_seed(0)
    rnn = RNN(pair.ours, 4, 4, dtype=F64, engine="loop", **pair.options).eval()
    theirs = getattr(torchrecurrent, pair.theirs)(4, 4, dtype=F64, **pair.their_options).eval()
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.normal_(0, 0.5)
        for kind, gate in pair.zero:
            getattr(rnn.gate_weights()[gate], kind).zero_()
        parameters = dict(theirs.named_parameters())
        for name, parameter in parameters.items():
            if name in pair.weights:
                value = pair.weights[name](rnn.cell())
                assert value.shape == parameter.shape, (pair.theirs, name, value.shape)
                parameter.copy_(value)
            elif name.startswith("bias"):
                parameter.zero_()
            else:
                assert name in pair.their_options, (pair.theirs, name)
        assert pair.weights.keys() <= parameters.keys(), (pair.theirs, parameters.keys())
    return rnn, theirs


@torch.no_grad()
def run(pair: Pair, theirs: nn.Module, x: Tensor) -> Tensor:
    """Run their cell over a sequence; return the outputs, (T, B, H)."""
    state, outputs = None, []
    for t, x_t in enumerate(x):
        if pair.delay:
            back = t - pair.delay - 1  # outputs[t − 1] is the state before this step
            result = theirs(x_t, state, outputs[back] if back >= 0 else None)
        else:
            result = theirs(x_t, state)
        if isinstance(result, Tensor):
            output = state = result
        else:
            output, state = result if pair.separate else (result[0], result)
        outputs.append(output)
    return torch.stack(outputs)


def difference(pair: Pair) -> float:
    """Return the largest absolute difference of the outputs."""
    rnn, theirs = pair_up(pair)
    x = torch.randn(STEPS, BATCH, 4, dtype=F64)
    with torch.no_grad():
        ours = pair.output(rnn(x)[0])
    return (ours - run(pair, theirs, x)).abs().max().item()


def main() -> None:
    """Compare all pairs; write results.csv and the table of the README."""
    rows = []
    for pair in PAIRS:
        off = difference(pair)
        rows.append({"cell": pair.ours, "torchrecurrent": pair.theirs,
                     "result": "equal" if off < 1e-12 else "different",
                     "difference": f"{off:.1e}", "note": pair.note})  # fmt: skip
    theirs = {name for name in torchrecurrent.__all__ if name.endswith("Cell")}
    assert theirs == {pair.theirs for pair in PAIRS}, theirs
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    different = {row["torchrecurrent"] for row in rows if row["result"] == "different"}
    equal = len(theirs - different)
    summary = f"Of {len(theirs)} cells {equal} are equal and {len(different)} are not."
    table = ["| cell | torchrecurrent | result | difference | note |", "|---|---|---|---|---|"]
    table += ["| " + " | ".join(row.values()) + " |" for row in rows]
    readme = HERE / "README.md"
    text = readme.read_text().split("## Results")[0]
    readme.write_text("\n".join([f"{text}## Results\n", summary + "\n", *table, ""]))


if __name__ == "__main__":
    main()
