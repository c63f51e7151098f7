"""Plain NumPy float64 references of the cells, one time step at a time; one file a family.

Each function is written from the equations of the paper named in its docstring, gate by gate,
without reading the implementation under test. Nothing here is meant to be fast.

Their interface is that of `cellzoo.testing.reference`. An extra parameter is read from ``extra``
by its name, like the cell's options, its buffers, ``hidden_size`` and ``dt``.

In the docstrings ``*`` is element-wise, ``s`` is the logistic sigmoid, ``h`` and ``c`` are the
state before the step, ``h'`` and ``c'`` after it, and ``b_gate`` is the sum of the pair of biases
(the papers have one bias a gate, or write none).

What a function was written from is said by its decorator: the paper's text, the author's code, a
secondary source, or memory; its docstring says more.
"""

<<<<<<< HEAD
from references import elman, gru, lstm
from references.common import REFERENCES

__all__ = ["REFERENCES", "elman", "gru", "lstm"]
=======
import numpy as np

from references import (
    additive,
    continuous,
    elman,
    gru,
    gru_variants,
    layernorm,
    light,
    linear,
    lstm,
    lstm_gating,
    lstm_memory,
    lstm_variants,
    nas,
    phased_lstm,
    simple,
    strongly_typed,
    xlstm,
)
from references.common import REFERENCES, f64

__all__ = [
    "REFERENCES",
    "additive",
    "continuous",
    "elman",
    "gru",
    "gru_variants",
    "layernorm",
    "light",
    "linear",
    "lstm",
    "lstm_gating",
    "lstm_memory",
    "lstm_variants",
    "nas",
    "phased_lstm",
    "run",
    "simple",
    "strongly_typed",
    "xlstm",
]


def run(cell, xs, state, W, U, b, extra, dt=None):
    """Run ``cell`` over ``xs`` (T, batch, input), one step after the other; dt is (T, batch).

    Returns the outputs, (T, batch, width), and the state after the last step.
    """
    xs, state, outputs = f64(xs), tuple(np.asarray(part) for part in state), []
    for t, x in enumerate(xs):
        elapsed = {} if dt is None else {"dt": f64(dt)[t][:, None]}
        output, state = cell(x, state, W, U, b, extra | elapsed)
        outputs.append(output)
    return np.stack(outputs), state
>>>>>>> refs_a
