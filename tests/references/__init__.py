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

from references import elman, gru, lstm
from references.common import REFERENCES

__all__ = ["REFERENCES", "elman", "gru", "lstm"]
