"""Functions of torch as their elementary operations."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class Formulas(TorchFunctionMode):
    """Decompose layer norms, so that the compiler fuses them with the operations around them.

    Their gains then act unit by unit, like any other parameter.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.layer_norm:
            return _layer_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    if len(shape) > 1 or x.dtype not in (torch.float32, torch.float64):
        return functional.layer_norm(x, shape, weight, bias, eps)
    normalised, _ = _Normalise.apply(x, eps)
    scaled = normalised if weight is None else normalised * weight
    return scaled if bias is None else scaled + bias


class _Normalise(torch.autograd.Function):
    """Normalisation to mean 0 and variance 1, with the scale as a second output.

    The two sums of its vjp do not depend on each other.
    """

    @staticmethod
    def forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        centred = x - x.mean(-1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
        return centred * scale, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_scale: Tensor | None) -> Any:
        normalised, scale = ctx.saved_tensors
        along = (gradient * normalised).mean(-1, keepdim=True)
        of_x = scale * (gradient - gradient.mean(-1, keepdim=True) - normalised * along)
        if of_scale is not None:  # in a second derivative
            of_x = of_x - of_scale * scale.square() * normalised / normalised.shape[-1]
        return of_x, None
