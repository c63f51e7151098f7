"""The cell that neural architecture search found."""

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid


@reference("secondary source", lambda i, h: 8 * h * (i + h + 1))
def nas(x, state, W, U, b, extra):
    """NASCell; gates ``a0`` to ``a7``.

    Source: Zoph & Le 2017, "Neural Architecture Search with Reinforcement Learning", arXiv
    1611.01578, appendix. Read in a public copy of TensorFlow's tf.contrib.rnn.NASCell.

        x_k = W_k x        m_k = U_k h + b_k
        l0 = s(x_0 + m_0)        l1 = relu(x_1 + m_1)        l2 = s(x_2 + m_2)
        l3 = relu(x_3 * m_3)     l4 = tanh(x_4 + m_4)        l5 = s(x_5 + m_5)
        l6 = tanh(x_6 + m_6)     l7 = s(x_7 + m_7)
        c' = tanh(tanh(l0 * l1) + c) * tanh(l2 + l3)
        h' = tanh(c' * tanh(tanh(l4 * l5) + s(l6 + l7)))

    The bias belongs to the recurrent side, which matters for l3 alone.
    """
    h, c = state
    inputs = [from_input(f"a{k}", x, W, b) for k in range(8)]
    hidden = [from_hidden(f"a{k}", h, U, b) for k in range(8)]
    functions = [sigmoid, relu, sigmoid, relu, np.tanh, sigmoid, np.tanh, sigmoid]
    layer = [
        function(a * m if k == 3 else a + m)
        for k, (function, a, m) in enumerate(zip(functions, inputs, hidden, strict=True))
    ]
    injected = np.tanh(np.tanh(layer[0] * layer[1]) + f64(c))
    c_new = injected * np.tanh(layer[2] + layer[3])
    right = np.tanh(np.tanh(layer[4] * layer[5]) + sigmoid(layer[6] + layer[7]))
    h_new = np.tanh(c_new * right)
    return h_new, (h_new, c_new)


def relu(a):
    """The positive part."""
    return np.maximum(a, 0.0)
