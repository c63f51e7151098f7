"""A projection as one product with x, which the engine makes, and what each step makes of that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cellzoo.cells.base import GatedCell

PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.mv}
ROWS = 3  # of the x that a projection is tried with


def product_of(cell: GatedCell) -> tuple[str, ...]:
    """The parameters of a projection's product, weight_ih and perhaps bias_ih.

    None where `project` does something else with x as well, makes another product, draws random
    numbers, reads or writes buffers, or mixes the rows of x.
    """
    if cell.weight_ih is None or cell.elapsed_time:
        return ()
    like = cell._like
    with torch.no_grad(), torch.random.fork_rng([like.device] if like.is_cuda else []):
        # Random values: a gain of 0 would hide what it multiplies. On copies, which may be written.
        trial = cell.bind(
            {name: p if p is None else torch.rand_like(p) for name, p in cell._parameters.items()},
            {name: b if b is None else b.clone() for name, b in cell._buffers.items()},
        )
        x = torch.randn(ROWS, cell.input_size, dtype=like.dtype, device=like.device)
        watch, effects = _Watch(trial, x), _Effects()
        try:
            with effects, watch:
                whole = trial.project_sequence(x, None)
            if watch.product is None or watch.more or effects.found or effects.products > 1:
                return ()
            rows = [completed(trial, watch.product[n : n + 1]) for n in range(ROWS)]
        except Exception:  # what it cannot do so, it may do otherwise
            return ()
        for name, values in whole.items():
            each = torch.cat([row[name] for row in rows])
            if each.shape != values.shape or not torch.allclose(each, values, 1e-4, 1e-5):
                return ()
    return ("weight_ih", "bias_ih") if watch.biased else ("weight_ih",)


def completed(cell: GatedCell, product: Tensor) -> dict[str, Tensor]:
    """What `project` makes of this value of its product."""
    with _Given(cell.weight_ih, product):
        return cell.project_sequence(product, None)


class _Watch(TorchFunctionMode):
    """Whether x and weight_ih meet in one product, and nothing else is made of them or of buffers.

    Attributes:
        product: its value.
        biased: whether bias_ih is added in it.
        more: whether something else is made.
    """

    def __init__(self, cell: GatedCell, x: Tensor) -> None:
        super().__init__()
        self.cell = cell
        self.x = x
        self.product: Tensor | None = None
        self.biased = self.more = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        weight, bias = self.cell.weight_ih, self.cell.bias_ih
        if func is functional.linear and self.product is None:
            x, by, added = _linear(*args, **(kwargs or {}))
            if x is self.x and by is weight and (added is None or added is bias):
                self.product, self.biased = result, added is not None
                return result
        guarded = [self.x, weight, *([bias] if self.biased else []), *self.cell._buffers.values()]
        if any(isinstance(each, Tensor) for each in tree_leaves(result)):
            read = tree_leaves((args, kwargs))
            self.more |= any(each is tensor for each in read for tensor in guarded)
        return result


class _Effects(TorchDispatchMode):
    """Whether anything is drawn or written, and how many products are made."""

    found = False
    products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= torch.Tag.nondeterministic_seeded in func.tags or func._schema.is_mutable
        self.products += func.overloadpacket in PRODUCTS
        return func(*args, **(kwargs or {}))


class _Given(TorchFunctionMode):
    """Hands in the value of the product with a weight."""

    def __init__(self, weight: Tensor | None, product: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.product = product

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear and _linear(*args, **(kwargs or {}))[1] is self.weight:
            return self.product
        return func(*args, **(kwargs or {}))


def _linear(x: Any, weight: Any, bias: Any = None) -> tuple[Any, Any, Any]:
    return x, weight, bias
