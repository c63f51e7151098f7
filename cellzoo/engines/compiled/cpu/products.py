"""The products of a whole sequence by the code of `runtime.h`, where it is faster than torch's.

Every library of steps contains this code. Until one is loaded, torch makes the products.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from cellzoo.engines.compiled.cpu.library import Library

NARROW = 16  # below this number of columns torch is as fast


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute torch.nn.functional.linear, without a graph."""
    library = _library_for(x, weight)
    if library is None:
        return functional.linear(x, weight, bias)
    bias = None if bias is None else bias.contiguous()
    return library.linear(x.contiguous(), weight.contiguous(), bias)


def outer(gradient: Tensor, v: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return gradientᵀ · v over all rows, in this dtype, and the sums of the gradient's columns."""
    library = _library_for(v, gradient)
    if library is None or v.dtype != dtype:
        gradient, v = gradient.flatten(0, -2), v.flatten(0, -2)
        return gradient.to(dtype).T @ v.to(dtype), gradient.sum(0)
    return library.outer(gradient.contiguous(), v.contiguous())


def _library_for(x: Tensor, other: Tensor) -> Library | None:
    dtypes = {x.dtype, other.dtype}
    suits = dtypes in ({torch.float32}, {torch.float64}) and x.device.type == "cpu"
    wide = min(x.shape[-1], other.shape[-1], other.shape[0]) >= NARROW
    return Library.loaded if suits and wide and x.numel() else None


class FasterLinear(TorchFunctionMode):
    """Replace torch.nn.functional.linear in a projection by `linear`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear and not kwargs and not torch.is_autocast_enabled("cpu"):
            x, weight, bias = (*args, None)[:3]
            fits = bias is None or (bias.shape, bias.dtype) == (weight.shape[:1], x.dtype)
            if weight.dim() == 2 and fits and _library_for(x, weight) is not None:
                return _Linear.apply(x, weight, bias)
        return func(*args, **(kwargs or {}))


class _Linear(torch.autograd.Function):
    """`linear` with a graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            rows = gradient.flatten(0, -2)
            gradients = gradient @ weight, rows.T @ x.flatten(0, -2), rows.sum(0)
        else:
            of_rows = linear(gradient, weight.t()) if ctx.needs_input_grad[0] else None
            gradients = of_rows, *outer(gradient, x, weight.dtype)
        pairs = zip(gradients, ctx.needs_input_grad, strict=True)
        return tuple(gradient if need else None for gradient, need in pairs)
