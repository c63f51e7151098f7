"""Recurrent networks from differential equations that neither grow nor decay by themselves."""

from typing import Any, ClassVar

import torch
from torch import Tensor, sigmoid, tanh

from cellzoo.cells import Gate, GatedCell, PreActivations, option, register_cell


def diffused(weight: Tensor, amount: float) -> Tensor:
    """Return weight − amount · I."""
    return weight - amount * torch.eye(len(weight), dtype=weight.dtype, device=weight.device)


@register_cell("antisymmetric_rnn")
class AntisymmetricRNN(GatedCell):
    """A network with an antisymmetric recurrent matrix, minus a diffusion γ.

    h' = h + ε tanh((U − Uᵀ − γI) h + W x + b)
    """

    paper = "Chang et al. 2019, arXiv:1902.09689"
    reference = "secondary source"
    gates: ClassVar[Any] = ("n",)
    biases = ("ih",)
    step_size: float = option(0.01, "ε")
    diffusion: float = option(0.01, "γ")

    def recurrent_weights(self) -> dict[str, Tensor]:
        weight = self.weight_hh
        return {"weight_hh": diffused(weight - weight.T, self.diffusion)}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return s.h + self.step_size * tanh(a.n)


@register_cell("gated_antisymmetric_rnn")
class GatedAntisymmetricRNN(AntisymmetricRNN):
    """An `antisymmetric_rnn` with an input gate that shares the recurrent matrix A = U − Uᵀ − γI.

    z = σ(A h + W_z x + b_z)
    h' = h + ε z ⊙ tanh(A h + W_n x + b_n)
    """

    gates = {"z": Gate(state="none"), "n": Gate()}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return s.h + self.step_size * sigmoid(a.z + a.h.n) * tanh(a.n)


@register_cell("lipschitz_rnn")
class LipschitzRNN(GatedCell):
    """A network of a linear and a nonlinear part with matrices between symmetric and antisymmetric.

        h' = h + ε (A h + tanh(U h + W x + b))
        A = (1 − β)(M + Mᵀ) + β (M − Mᵀ) − γI, and U likewise of a matrix of its own

    β and γ are the same for both matrices, as in the authors' experiments. For some M the linear
    part grows, so the states are not bounded.
    """

    paper = "Erichson et al. 2021, arXiv:2006.12070"
    reference = "author's code"
    gates = {"m": Gate(x="none"), "n": Gate()}
    biases = ("ih",)
    bounded = False
    step_size: float = option(0.03, "ε")
    beta: float = option(0.75, "β, between 1/2 and 1")
    diffusion: float = option(0.001, "γ")

    @property
    def paper_init(self) -> dict[str, Any]:
        std = 1 / self.hidden_size
        return {"name": "glorot", "blocks": {"weight_hh": {"name": "normal", "std": std}}}

    def recurrent_weights(self) -> dict[str, Tensor]:
        weights = [
            diffused((1 - self.beta) * (m + m.T) + self.beta * (m - m.T), self.diffusion)
            for m in self.weight_hh.chunk(2)
        ]
        return {"weight_hh": torch.cat(weights)}

    def update(self, a: PreActivations, s: Any) -> Tensor:
        return s.h + self.step_size * (a.m + tanh(a.n))
