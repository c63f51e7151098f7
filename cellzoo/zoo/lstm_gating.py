"""LSTMs that differ in their gates."""

from typing import Any

from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Extra, Gate, GatedCell, PreActivations, option, register_cell


@register_cell("lstm_1997")
class LSTM1997(GatedCell):
    """An LSTM as first published, without a forget gate, and with one cell per memory block.

        i = σ(W_i x + U_i h + b_i)       o = σ(W_o x + U_o h + b_o)
        c' = c + i ⊙ g(W_g x + U_g h + b_g)      h' = o ⊙ k(c')

    The paper squashes by g(a) = 4σ(a) − 2 and k(c) = 2σ(c) − 1; `squash="tanh"` uses tanh for
    both, as later work does. The paper truncates the gradient at the gates; here it is full.
    """

    paper = "Hochreiter & Schmidhuber 1997 (10.1162/neco.1997.9.8.1735)"
    reference = "secondary source"
    gates = ("i", "g", "o")
    states = ("h", "c")
    squash: str = option("logistic", "the squashing functions", choices=("logistic", "tanh"))

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        logistic = self.squash == "logistic"
        c = s.c + sigmoid(a.i) * (4 * sigmoid(a.g) - 2 if logistic else tanh(a.g))
        return sigmoid(a.o) * (2 * sigmoid(c) - 1 if logistic else tanh(c)), c


@register_cell("janet")
class JANET(GatedCell):
    """An LSTM with a forget gate only ("just another network").

        f = W_f x + U_f h + b_f        g = tanh(W_g x + U_g h + b_g)
        h' = σ(f) ⊙ h + (1 − σ(f − β)) ⊙ g

    β = 1 gives the input a larger weight than 1 − σ(f); β = 0 couples both weights. The paper's
    chrono initialisation is for its longest sequences, T_max = 784; set `chrono` for others.
    """

    paper = "van der Westhuizen & Lasenby 2018, arXiv:1804.04849"
    reference = "author's code"
    gates = ("f", "g")
    keep = {"f": +1}
    paper_init = {"name": "glorot", "chrono": 784}
    beta: float = option(1.0, "β, subtracted from f where it gates the input")

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return sigmoid(a.f) * s.h + (1 - sigmoid(a.f - self.beta)) * tanh(a.g)


@register_cell("sub_lstm")
class SubLSTM(GatedCell):
    """An LSTM with input and output gates that subtract, like inhibition in cortical circuits.

        (i, o, z, f) = σ(W x + U h + b)
        c' = f ⊙ c + z − i      h' = σ(c') − o

    With `fixed_forget` (fix-subLSTM), f is one learned number per unit, clipped to [0, 1]. Its
    uniform initial value in [0, 1] is a choice of cellzoo.
    """

    paper = "Costa et al. 2017, arXiv:1711.02448"
    reference = "author's code"
    states = ("h", "c")
    extra = {"forget": Extra.uniform("fixed_size", low=0.0, high=1.0)}
    fixed_forget: bool = option(False, "use a forget factor in place of the gate")

    @property
    def gates(self) -> tuple[str, ...]:
        return ("i", "o", "z") if self.fixed_forget else ("i", "o", "z", "f")

    @property
    def keep(self) -> dict[str, int]:
        return {} if self.fixed_forget else {"f": +1}

    @property
    def fixed_size(self) -> int:
        return self.hidden_size if self.fixed_forget else 0

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        f = self.forget.clamp(0, 1) if self.fixed_forget else sigmoid(a.f)
        c = f * s.c + sigmoid(a.z) - sigmoid(a.i)
        return sigmoid(c) - sigmoid(a.o), c


@register_cell("on_lstm")
class OrderedNeuronsLSTM(GatedCell):
    """An LSTM with ordered units: master gates open or close consecutive units together.

        i, f, o, g as in `lstm`;  cumax(a) = cumsum(softmax(a))
        F = cumax(W_F x + U_F h + b_F)        I = 1 − cumax(W_I x + U_I h + b_I)
        ω = F ⊙ I
        c' = (f ⊙ ω + F − ω) ⊙ c + (i ⊙ ω + I − ω) ⊙ g      h' = o ⊙ tanh(c')

    F and I have one value per `chunk_size` neighbouring units.
    """

    paper = "Shen et al. 2019, arXiv:1810.09536"
    reference = "author's code"
    gates = {
        "master_i": Gate(width="chunks"),
        "master_f": Gate(width="chunks"),
        "i": Gate(),
        "f": Gate(),
        "g": Gate(),
        "o": Gate(),
    }
    states = ("h", "c")
    keep = {"f": +1}
    write = {"i": +1}
    chunk_size: int = option(1, "units that share a value of the master gates")

    @property
    def chunks(self) -> int:
        if self.chunk_size < 1 or self.hidden_size % self.chunk_size:
            raise ValueError(
                f"chunk_size must divide hidden_size {self.hidden_size}, not {self.chunk_size}"
            )
        return self.hidden_size // self.chunk_size

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        whole_f, whole_i = self.cumax(a.master_f), 1 - self.cumax(a.master_i)
        overlap = whole_f * whole_i
        f = sigmoid(a.f) * overlap + whole_f - overlap
        i = sigmoid(a.i) * overlap + whole_i - overlap
        c = f * s.c + i * tanh(a.g)
        return sigmoid(a.o) * tanh(c), c

    def cumax(self, master: Tensor) -> Tensor:
        """Return the cumulative softmax over chunks, (B, H / C), expanded to (B, H)."""
        chunks = master.softmax(-1).cumsum(-1)
        return chunks.unsqueeze(-1).expand(-1, -1, self.chunk_size).flatten(-2)
