"""Gated recurrent units."""

import numpy as np

from references.common import f64, from_hidden, from_input, reference, sigmoid


@reference("secondary source", lambda i, h: 3 * h * (i + h + 2))
def gru(x, state, W, U, b, extra):
    """GRU with the reset gate after the recurrent product; gates ``r``, ``z``, ``n``.

    Source: cuDNN's CUDNN_GRU, the form of Keras with ``reset_after=True`` and of PyTorch.
    Checked against the cuDNN user guide's equations as quoted on TensorFlow 1.15's page of
    CudnnCompatibleGRUCell, and against PyTorch's page of torch.nn.GRU. According to Keras's
    documentation and pytorch/pytorch issue 8153, this is the order of the FIRST arXiv version of
    Cho et al. 2014 (1406.1078v1); the paper itself was not seen.

        r = s(W_r x + U_r h + b_r)
        z = s(W_z x + U_z h + b_z)
        n = tanh(W_n x + b_n_input + r * (U_n h + b_n_recurrent))
        h' = (1 - z) * n + z * h

    Conventions: z near 1 keeps the old state. b_n_recurrent lies inside the reset product, so
    the two biases of ``n`` do not merge into one.
    """
    (h,) = state
    r = sigmoid(from_input("r", x, W, b) + from_hidden("r", h, U, b))
    z = sigmoid(from_input("z", x, W, b) + from_hidden("z", h, U, b))
    n = np.tanh(from_input("n", x, W, b) + r * from_hidden("n", h, U, b))
    h_new = (1.0 - z) * n + z * f64(h)
    return h_new, (h_new,)


@reference("memory", lambda i, h: 3 * h * (i + h + 2))
def gru_v1(x, state, W, U, b, extra):
    """GRU with the reset gate before the recurrent product; gates ``r``, ``z``, ``n``.

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder for
    Statistical Machine Translation", EMNLP 2014, doi:10.3115/v1/D14-1179, arXiv 1406.1078,
    equations (5) to (8). From memory; agrees with transcriptions of these equations in public
    repositories' reading notes, not with the paper's own text.

        r = s(W_r x + U_r h + b_r)
        z = s(W_z x + U_z h + b_z)
        n = tanh(W_n x + b_n_input + U_n (r * h) + b_n_recurrent)
        h' = z * h + (1 - z) * n

    Conventions: z near 1 keeps the old state, as in this paper (Chung et al. 2014, arXiv
    1412.3555, swap z and 1 - z). The equations write no biases; they are added here.
    The "v1" of this function's name is not the arXiv version: according to Keras's documentation
    and pytorch/pytorch issue 8153, reset before the product is arXiv version 3, and version 1 of
    the paper has the order of ``gru`` above.
    """
    (h,) = state
    h = f64(h)
    r = sigmoid(from_input("r", x, W, b) + from_hidden("r", h, U, b))
    z = sigmoid(from_input("z", x, W, b) + from_hidden("z", h, U, b))
    n = np.tanh(from_input("n", x, W, b) + from_hidden("n", r * h, U, b))
    h_new = z * h + (1.0 - z) * n
    return h_new, (h_new,)
