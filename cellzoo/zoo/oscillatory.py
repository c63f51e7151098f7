"""Discretised networks of oscillators and of several time scales."""

import math
from typing import Any

from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Extra, Gate, GatedCell, PreActivations, option, register_cell


@register_cell("cornn")
class CoRNN(GatedCell):
    """A coupled oscillatory network: positions y and velocities z of driven, damped oscillators.

        z' = z + Δt (tanh(W x + U y + V z + b) − γ y − ε z)
        y' = y + Δt z'

    The damping uses z, as in the authors' code. With `implicit` it uses z', the paper's other
    scheme: z' = (z + Δt (tanh(…) − γ y)) / (1 + Δt ε). The defaults are those for sequential MNIST.
    `init="paper"` is that of the authors' code: uniform in ±1/√(I + 2H), as for one linear map.
    """

    paper = "Rusch & Mishra 2021, arXiv:2010.00951"
    reference = "author's code"
    gates = {"n": Gate(of=("y", "z"))}
    states = ("y", "z")
    biases = ("ih",)
    time_step: float = option(0.042, "Δt")
    gamma: float = option(2.7, "γ, the stiffness")
    epsilon: float = option(4.7, "ε, the damping")
    implicit: bool = option(False, "whether the damping uses z'")

    @property
    def paper_init(self) -> dict[str, Any]:
        bound = 1 / math.sqrt(self.input_size + 2 * self.hidden_size)  # one linear map of all
        uniform = {"name": "uniform", "low": -bound, "high": bound}
        blocks = dict.fromkeys(("weight_ih", "weight_hh_y_z", "bias_ih"), uniform)
        return {"name": "torch", "blocks": blocks}

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        z = s.z + self.time_step * (tanh(a.n) - self.gamma * s.y)
        if self.implicit:
            z = z / (1 + self.time_step * self.epsilon)
        else:
            z = z - self.time_step * self.epsilon * s.z
        return s.y + self.time_step * z, z


@register_cell("unicornn")
class UnICORNN(GatedCell):
    """A network of undamped independent controlled oscillators, in which no unit sees another.

        z' = z − Δt σ(c) ⊙ (tanh(u ⊙ y + W x + b) + α y)
        y' = y + Δt σ(c) ⊙ z'

    c is a parameter, `control`. The paper's σ̂(c) = 1/2 + tanh(c/2)/2 equals σ(c). The defaults are
    those for permuted sequential MNIST.
    """

    paper = "Rusch & Mishra 2021, arXiv:2103.05487"
    reference = "author's code"
    gates = {"n": Gate(state="diagonal", of="y")}
    states = ("y", "z")
    extra = {"control": Extra.uniform("hidden_size", low=-0.1, high=0.1)}
    biases = ("ih",)
    time_step: float = option(0.19, "Δt")
    alpha: float = option(30.65, "α")

    @property
    def paper_init(self) -> dict[str, Any]:
        bound = math.sqrt(6 / ((1 + 8**2) * self.input_size))
        return {
            "name": "torch",
            "blocks": {
                "weight_ih": {"name": "uniform", "low": -bound, "high": bound},
                "weight_hh_y_diagonal": {"name": "uniform", "low": 0.0, "high": 1.0},
                "bias_ih": "zeros",
            },
        }

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        step = self.time_step * sigmoid(self.control)
        z = s.z - step * (tanh(a.n) + self.alpha * s.y)
        return s.y + step * z, z


@register_cell("lem")
class LEM(GatedCell):
    """A long expressive memory: two states, each with learned time steps of its own.

        t_z = Δt σ(U_1 y + W_1 x + b_1)      t_y = Δt σ(U_2 y + W_2 x + b_2)
        z' = (1 − t_z) ⊙ z + t_z ⊙ tanh(U_z y + W_z x + b_z)
        y' = (1 − t_y) ⊙ y + t_y ⊙ tanh(U_y z' + W_y x + b_y)

    The gates 1, 2, z and y are named tz, ty, nz and ny. The authors mostly set Δt = 1.
    """

    paper = "Rusch et al. 2022, arXiv:2110.04744"
    reference = "author's code"
    gates = {"tz": Gate(of="y"), "ty": Gate(of="y"), "nz": Gate(of="y"),
             "ny": Gate(of="z", late=True)}  # fmt: skip
    states = ("y", "z")
    keep = {"tz": -1, "ty": -1}
    paper_init = {"name": "torch"}
    time_step: float = option(1.0, "Δt")

    def update(self, a: PreActivations, s: Any) -> tuple[Tensor, Tensor]:
        t_z, t_y = self.time_step * sigmoid(a.tz), self.time_step * sigmoid(a.ty)
        z = (1 - t_z) * s.z + t_z * tanh(a.nz)
        y = (1 - t_y) * s.y + t_y * tanh(a.ny + self.product("ny", z))
        return y, z
