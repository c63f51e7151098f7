"""A check against an independent reference: one step in NumPy float64, written from the paper.

    def my_cell(x, state, W, U, b, extra):
        ...
        return output, new_state

- `x`: (batch, input).
- `state`: a tuple of the states in the cell's declared order, (batch, width) each.
- `W`, `U`: gate name to matrix (rows, input), and to the gate's recurrent block: (rows, columns);
  (rows,) for a diagonal block; (rows, columns / heads) for a block of heads.
- `b`: gate name to the pair (b_input, b_recurrent) of vectors (rows,); either may be zeros.
- `extra`: further values by name: extra parameters, buffers, options, `hidden_size`, and `dt`
  (batch, 1) for a cell that takes the elapsed time.

Write the reference without looking at the cell's `update`: only then is agreement evidence.
"""

import math
from dataclasses import replace

from cellzoo.testing.comparison import ReferenceComparison
from cellzoo.testing.errors import ConformanceError, NotChecked
from cellzoo.testing.mistakes import likely_cause
from cellzoo.testing.subject import Subject, elapsed, normal, warm_state

# (time steps, batch, biases, scale of the weights)
CASES = ((1, 1, True, 0.5), (4, 2, True, 0.1), (5, 3, True, 1.0), (3, 2, False, 0.6),
         (2, 3, True, 3.0))  # fmt: skip


def equals_its_reference(subject: Subject) -> None:
    """Compare the cell with its independent reference in float64."""
    if subject.reference is None:
        raise NotChecked("not checked against a paper: no reference was given")
    # The largest size comes first: its message locates a difference best.
    for size in sorted(subject.sizes, key=math.prod, reverse=True):
        for seed, (steps, batch, bias, scale) in enumerate(CASES):
            rnn = subject.rnn(size, seed, scale, bias=bias)
            x, dt = normal(steps, batch, size[0], seed=seed), elapsed(rnn, steps, batch, seed)
            states = warm_state(rnn, batch, seed)
            comparison = ReferenceComparison(rnn, subject.reference, x, states, dt)
            difference = comparison.difference()
            if difference is not None:
                first_step = replace(comparison, x=x[:1], dt=None if dt is None else dt[:1])
                cause = likely_cause(first_step)
                raise ConformanceError(
                    f"{difference} by the reference" + (f". {cause}" if cause else "")
                    + f" (input_size {size[0]}, hidden_size {size[1]})"
                )  # fmt: skip
