"""A projection as one product with x, which the engine makes, and a rest in each step."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cellzoo.cells.protocol import Cell

PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.mv}
ROWS = 3  # of the x for the trial of a projection


def product_of(cell: Cell) -> tuple[str, ...]:
    """Return the parameters of a projection's product, weight_ih and perhaps bias_ih.

    There are none if `project` uses x in another way, makes another product, draws random numbers,
    reads or writes buffers, or mixes the rows of x.
    """
    if cell.weight_ih is None or cell.elapsed_time:
        return ()
    like = cell._like
    with torch.no_grad(), torch.random.fork_rng([like.device] if like.is_cuda else []):
        # Random values, because a gain of 0 would hide its operand. Copies, which may be written.
        trial = cell.bind(
            {name: p if p is None else torch.rand_like(p) for name, p in cell._parameters.items()},
            {name: b if b is None else b.clone() for name, b in cell._buffers.items()},
        )
        x = torch.randn(ROWS, cell.input_size, dtype=like.dtype, device=like.device)
        watch, effects = _Watch(trial, x), _Effects()
        try:
            with effects, watch:
                whole = trial.project_sequence(x, None)
            if watch.product is None or watch.more or effects.impure or effects.products > 1:
                return ()
            rows = [completed(trial, watch.product[n : n + 1]) for n in range(ROWS)]
        except Exception:  # `project` may still run as a whole
            return ()
        for name, values in whole.items():
            joined = torch.cat([row[name] for row in rows])
            if joined.shape != values.shape or not torch.allclose(joined, values, 1e-4, 1e-5):
                return ()
    return ("weight_ih", "bias_ih") if watch.biased else ("weight_ih",)


def completed(cell: Cell, product: Tensor) -> dict[str, Tensor]:
    """Return the result of `project` for this value of its product."""
    with _Substitute(cell.weight_ih, product):
        return cell.project_sequence(product, None)


class _Watch(TorchFunctionMode):
    """A watch for one product of x with weight_ih, and for other uses of them or of buffers.

    Attributes:
        product: the value of the product.
        biased: whether the product adds bias_ih.
        more: whether there is another use.
    """

    def __init__(self, cell: Cell, x: Tensor) -> None:
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
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            read = tree_leaves((args, kwargs))
            self.more |= any(leaf is tensor for leaf in read for tensor in guarded)
        return result


class _Effects(TorchDispatchMode):
    """A watch for random draws and writes, and a count of products."""

    impure = False
    products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.impure |= torch.Tag.nondeterministic_seeded in func.tags or func._schema.is_mutable
        self.products += func.overloadpacket in PRODUCTS
        return func(*args, **(kwargs or {}))


class _Substitute(TorchFunctionMode):
    """Replace the product with a weight by a value."""

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
