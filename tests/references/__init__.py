"""Plain NumPy float64 references of the cells, one time step at a time; one file a family.

Each function is written from the equations of the paper named in its docstring, gate by gate,
without reading the implementation under test. Nothing here is meant to be fast.

Every cell has the same interface::

    output, new_state = cell(x, state, W, U, b, extra)

- ``x``: (batch, input).
- ``state``: a tuple of the states in the cell's declared order, (batch, width) each.
- ``W``, ``U``: gate name -> matrix (rows, input), and the gate's recurrent block: (rows, columns),
  (rows,) where it is diagonal, (rows, columns / heads) where it is one of heads.
- ``b``: gate name -> pair ``(b_input, b_recurrent)`` of vectors (rows,); either may be zeros.
- ``extra``: further values by name: extra parameters, buffers, options, ``hidden_size``, and
  ``dt`` (batch, 1) where the cell takes the elapsed time; a cell that needs none ignores it.

In the docstrings ``*`` is element-wise, ``s`` is the logistic sigmoid, ``h`` and ``c`` are the
state before the step, ``h'`` and ``c'`` after it, and ``b_gate`` is the sum of the pair of biases
(the papers have one bias a gate, or write none).

What a function was written from is said by its decorator: the paper's text, the author's code, a
secondary source, or memory; its docstring says more.
"""

import numpy as np

from references import elman, gru, lstm
from references.common import REFERENCES, f64

__all__ = ["REFERENCES", "elman", "gru", "lstm", "run"]


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
