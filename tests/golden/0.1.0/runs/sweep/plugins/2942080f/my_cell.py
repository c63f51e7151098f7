from torch import sigmoid, tanh

from cellzoo import GatedCell, option, register_cell


@register_cell("leaky_lstm")
class LeakyLSTM(GatedCell):
    """c = f c + i g;  h = (1 - leak) h + leak o tanh(c)"""

    gates = ("i", "f", "g", "o")
    states = ("h", "c")
    leak: float = option(0.1, "the share of h that is new")

    def update(self, a, s):
        c = sigmoid(a.f) * s.c + sigmoid(a.i) * tanh(a.g)
        h = (1 - self.leak) * s.h + self.leak * sigmoid(a.o) * tanh(c)
        return h, c
