"""A step's shared library, and the call of its loop over time in `runtime.h`."""

from __future__ import annotations

import ctypes
import math
import operator
from array import array
from functools import cache as once
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from cellzoo.engines.compiled.lengths import Lengths
from cellzoo.engines.errors import CompileError

SMALL = 1 << 20  # multiply-adds of a product that are worth another thread
DTYPES = {
    torch.float32: 6,
    torch.float64: 7,
    torch.bfloat16: 15,
    torch.int64: 4,
    torch.bool: 11,
    torch.int32: 3,
}  # fmt: skip  (torch's numbers of its dtypes)
# As in runtime.h: the most dimensions of a tensor, the words of an argument and of a product.
DIMS, WORDS, WORDS_OF_PRODUCT = 6, 15, 9
KEPT = 256  # packed arguments that a library keeps, one for each set of tensor sizes

# The arithmetic that the compiler's guards are written in.
ARITHMETIC = {
    "__builtins__": {},
    "Eq": operator.eq,
    "Ne": operator.ne,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "FloorDiv": operator.floordiv,
    "Max": max,
    "Min": min,
    "And": lambda *terms: all(terms),
    "Or": lambda *terms: any(terms),
    "Not": operator.not_,
}


class Argument(NamedTuple):
    """The part of a tensor that a step reads or writes.

    Attributes:
        tensor: a contiguous tensor.
        axis: the meaning of the first extent: "time", the rows of a batch step by step, where
            each step sees its own rows; "turn", two turns, which steps use alternately, to read
            what the last step wrote; "sum", the rows of the batch, or its parts, where each part
            sees its own at all steps; or "", no such meaning.
        batched: whether a step sees rows of the batch.
        first: the step of time, or the turn, that the first step sees. Step -1 has rows for all
            sequences, before the tensor.
    """

    tensor: Tensor
    axis: str = ""
    batched: bool = False
    first: int = 0

    @property
    def apart(self) -> bool:
        """Return whether each part of a batch has its own."""
        return self.axis == "sum" and not self.batched

    @property
    def sizes(self) -> torch.Size:
        """Return the extents of the tensor, without the number of rows over time."""
        shape = self.tensor.shape
        return shape[1:] if self.axis == "time" else shape

    def shape(self, rows: int) -> tuple[int, ...]:
        """Return the shape that a step sees, for this number of rows of the batch."""
        shape = self.tensor.shape[{"time": 1, "turn": 2, "sum": 1, "": 0}[self.axis] :]
        return (rows, *shape) if self.batched else tuple(shape)

    def packed(self) -> list[int]:
        """Return the fields of runtime.h's Argument."""
        tensor, shape = self.tensor, self.shape(0)
        # Not the tensor's own strides: the stride of an extent of 1 is arbitrary.
        sizes = tensor.shape
        strides = [math.prod(sizes[dim + 1 :]) * tensor.itemsize for dim in range(len(sizes))]
        turns = self.axis == "turn"
        return [
            tensor.data_ptr(),
            self.axis == "time",
            strides[0] if turns else 0,
            self.first,
            strides[turns] if self.batched else 0,
            strides[0] if self.apart else 0,
            DTYPES[tensor.dtype],
            len(shape),
            self.batched,
            *shape,
            *(0 for _ in range(DIMS - len(shape))),
        ]


class Product(NamedTuple):
    """The product of one argument with a weight, or with some columns of it, into another.

    Attributes:
        of, to: the places of the arguments.
        add: whether the product is added to the target.
        weight: (rows, columns).
        columns: the first column, and the number of columns.
        turned: whether rows are multiplied by the weight; else by its transpose.
    """

    of: int
    to: int
    add: bool
    weight: Tensor
    columns: tuple[int, int]
    turned: bool

    @property
    def address(self) -> int:
        """Return the address of the first column."""
        return self.weight.data_ptr() + self.columns[0] * self.weight.itemsize

    def packed(self) -> list[int]:
        """Return the fields of runtime.h's Product."""
        weight, (_, width) = self.weight, self.columns
        rows, all_columns = weight.shape
        sizes = (rows, width, all_columns, 1) if self.turned else (width, rows, 1, all_columns)
        return [self.address, self.of, self.to, self.add, *sizes, DTYPES[weight.dtype]]


class Library:
    """The compiled code of a step, in its loop over time.

    Args:
        path: the shared library.
        noted: the notes of the compiler: `sizes`, the place of each symbolic size, and `guards`,
            the conditions on them.

    Attributes:
        loaded: the library that was loaded last. All libraries have the same `linear` and `outer`.
    """

    loaded: ClassVar[Library | None] = None

    def __init__(self, path: Path, noted: dict[str, Any]) -> None:
        try:
            self._code = ctypes.CDLL(str(path))
        except OSError as error:
            raise CompileError(f"{path} cannot be loaded: {error}") from None
        self._code.cellzoo_run.restype = ctypes.c_char_p
        self._noted = noted
        self._fitting: set[Any] = set()
        self._packed: dict[Any, tuple[array[int], array[int]]] = {}
        Library.loaded = self
        _keep_freed_memory()

    def run(
        self,
        arguments: list[Argument],
        products: list[Product],
        lengths: Lengths,
        parts: int,
        backwards: bool,
    ) -> None:
        """Run all steps; each part of the batch by itself.

        Args:
            arguments: the arguments of a step.
            products: the products that the loop makes.
            lengths: of the batch's sequences.
            parts: the number of parts of the batch, each for a thread.
            backwards: whether the last step comes first.

        Raises:
            CompileError: the steps were compiled for other sizes, or fail.
        """
        bounds = lengths.bounds(parts)
        for first, end in pairwise(bounds):
            for rows in {min(size, end) - first for size in lengths.distinct_sizes}:
                if rows > 0 and rows not in self._fitting:
                    self._check(arguments, rows)
                    self._fitting.add(rows)
        sizes, ends = array("q", lengths.batch_sizes), array("q", bounds)
        fields, more = self._pack(arguments, products)
        numbers = [lengths.steps, _address(sizes), parts, _address(ends), backwards,
                   _address(fields), len(arguments), _address(more), len(products)]  # fmt: skip
        failed = _call(self._code.cellzoo_run, *numbers)
        if failed:
            raise CompileError(failed.decode())

    def _pack(
        self, arguments: list[Argument], products: list[Product]
    ) -> tuple[array[int], array[int]]:
        """Return the fields for runtime.h. All but the addresses is kept for each set of sizes."""
        key = tuple(argument.sizes for argument in arguments)
        if key not in self._packed:
            if len(self._packed) == KEPT:
                self._packed.clear()
            self._packed[key] = (
                array("q", (n for argument in arguments for n in argument.packed())),
                array("q", (n for product in products for n in product.packed())),
            )
        fields, more = (packed[:] for packed in self._packed[key])
        for place, argument in enumerate(arguments):
            fields[place * WORDS] = argument.tensor.data_ptr()
        for place, product in enumerate(products):
            more[place * WORDS_OF_PRODUCT] = product.address
        return fields, more

    def _check(self, arguments: list[Argument], rows: int) -> None:
        """Check the conditions on the sizes, for this number of rows of the batch."""
        sizes = self._noted["sizes"]
        shapes = [argument.shape(rows) for argument in arguments]
        known = {symbol: shapes[place][dim] for symbol, (place, dim) in sizes.items()}
        for guard in self._noted["guards"]:
            if not eval(guard, ARITHMETIC, known):
                raise CompileError(f"compiled for other sizes: {guard} does not hold of {known}")

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute torch.nn.functional.linear of contiguous float32 or float64 tensors."""
        rows, depth, n = x.numel() // x.shape[-1], x.shape[-1], len(weight)
        y = x.new_empty(*x.shape[:-1], n)
        addresses = [0 if t is None else t.data_ptr() for t in (x, weight, bias, y)]
        numbers = [*addresses, rows, depth, n, _threads(rows * depth * n)]
        _call(self._code.cellzoo_linear, x.dtype == torch.float64, *numbers)
        return y

    def outer(self, gradient: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return gradientᵀ · v over all rows, and the sums of the gradient's columns."""
        rows, m, n = gradient.numel() // gradient.shape[-1], gradient.shape[-1], v.shape[-1]
        product, sums = v.new_empty(m, n), v.new_empty(m)
        addresses = [tensor.data_ptr() for tensor in (gradient, v, product, sums)]
        numbers = [*addresses, rows, m, n, _threads(rows * m * n)]
        _call(self._code.cellzoo_outer, v.dtype == torch.float64, *numbers)
        return product, sums


def _call(function: Any, *numbers: int) -> Any:
    """Call a library's function of 64-bit numbers and addresses."""
    return function(*map(ctypes.c_int64, numbers))


def _address(numbers: array[int]) -> int:
    return numbers.buffer_info()[0]


def _threads(multiply_adds: int) -> int:
    return max(1, min(torch.get_num_threads(), multiply_adds // SMALL))


@once
def _keep_freed_memory() -> None:
    """Let glibc keep the memory that a sequence frees, instead of returning it each time.

    Fetching the pages again took a third of a backward pass.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 25)  # the largest value that it accepts
