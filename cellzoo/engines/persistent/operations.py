"""A step's operations as lines of a Triton kernel.

The extents of Triton's tiles are powers of two. So a tensor (B, k·H) is k tiles of (BLOCK, H to
the next power of two). The padding is masked wherever it would have an effect: in products, sums
and stores.
"""

import keyword
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from cellzoo.engines.compiled.cuda.traced import Traced
from cellzoo.engines.errors import EngineError

DTYPES = {torch.float32: "tl.float32", torch.float64: "tl.float64", torch.float16: "tl.float16",
          torch.bfloat16: "tl.bfloat16", torch.bool: "tl.int1"}  # fmt: skip

POINTWISE = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "neg": "-{}",
    "reciprocal": "1 / {}",
    "sigmoid": "sigmoid({})",
    "tanh": "tanh({})",
    "relu": "tl.where({0} < 0, 0.0, {0})",
    "exp": "tl.exp({})",
    "log": "tl.log({})",
    "sqrt": "tl.sqrt({})",
    "rsqrt": "1 / tl.sqrt({})",
    "sin": "tl.sin({})",
    "cos": "tl.cos({})",
    "erf": "tl.erf({})",
    "abs": "tl.abs({})",
    "where": "tl.where({}, {}, {})",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "gt": "{} > {}",
    "ge": "{} >= {}",
    "eq": "{} == {}",
    "ne": "{} != {}",
    "logical_and": "{} & {}",
    "logical_or": "{} | {}",
    "maximum": "tl.maximum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
}
# The kernel's own names.
TAKEN = ("tl", "triton", "t", "T", "B", "BLOCK", "PRECISION", "at", "step", "program", "rows",
         "columns", "inner", "row", "unit", "square")  # fmt: skip
SAME = {"clone", "detach", "alias", "lift_fresh_copy"}
CONSTANT = {"full": 1, "full_like": 1, "new_full": 2, "scalar_tensor": 0,
            "zeros": 0.0, "zeros_like": 0.0, "new_zeros": 0.0, "ones_like": 1.0}  # fmt: skip

# Functions that a kernel may call; only those that it calls are written.
HELPERS = {
    "sigmoid": """\
@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp(-x))
""",
    # In single precision 1 - 2 / (…) cancels near 0. A minimax polynomial replaces it there.
    "tanh": """\
@triton.jit
def tanh(x):
    far = 1 - 2 / (tl.exp(2 * x) + 1)
    if x.dtype == tl.float64:
        return far
    z = x * x
    p = 0.021010039374232292 - 0.006113144569098949 * z
    p = 0.13332794606685638 + z * (z * p - 0.05385405942797661)
    near = x + x * (z * (z * p - 0.3333332836627960))
    return tl.where(tl.abs(x) < 0.625, near, far)
""",
}


class UnsupportedError(EngineError):
    """A kernel does not support a step; the message names the operation."""


class Value(NamedTuple):
    """A tensor of one step.

    Attributes:
        tiles: H columns each: the name of a variable, or a number that fills the tile.
        batched: whether it has the rows of the batch; else it has one row for all of them.
        single: whether it has one column.
    """

    tiles: list[str]
    batched: bool
    single: bool = False


class Matrix(NamedTuple):
    """A matrix that all steps share, or its transpose."""

    name: str
    columns: int  # in memory
    turned: bool = False


class Operations:
    """The writer of the lines of a step, operation by operation.

    Args:
        traced: the step.
        hidden: H.

    Attributes:
        before: the lines before the loop over time.
        body: the lines of a step.
    """

    def __init__(self, traced: Traced, hidden: int) -> None:
        self.traced = traced
        self.hidden = hidden
        self.padded = padded(hidden)
        self.before: list[str] = []
        self.body: list[str] = []
        self._values: dict[Node, Any] = {}
        self._given: dict[Node, str] = {}  # the names of the tensors that the step reads
        self._loaded: dict[tuple[Matrix, int, int], str] = {}
        self._taken = {*TAKEN, *HELPERS, *keyword.kwlist}

    def _operation(self, node: Node) -> Any:
        """Write an operation and return its result: a Value, a Matrix or a list."""
        target: Any = node.target
        if node.op != "call_function":
            raise UnsupportedError("no kernel has a tensor that the update makes of numbers")
        if not hasattr(target, "overloadpacket"):  # an item of a split
            return self._values[node.args[0]][node.args[1]]  # type: ignore[index]
        name = target.overloadpacket.__name__
        if not node.users:
            return None
        special: dict[str, Callable[[Node], Any]] = {
            "mm": self._product, "t": self._turn, "permute": self._turn, "expand": self._expand,
            "cat": self._cat, "split_with_sizes": self._split, "slice": self._slice,
            "sum": self._sum, "mean": self._sum, "_to_copy": self._cast, "pow": self._power,
            "clamp": self._clamp, "view": self._view, "native_layer_norm": self._layer_norm,
        }  # fmt: skip
        if name in special:
            return special[name](node)
        if name in SAME:
            return self._values[node.args[0]]  # type: ignore[index]
        if name in CONSTANT:
            place = CONSTANT[name]
            number = place if isinstance(place, float) else float(node.args[place])
            if not math.isfinite(number):
                raise UnsupportedError(f"no kernel has {target} of {number}")
            tiles, single = self._extent(node)
            return Value([repr(number)] * tiles, self._is_batched(node), single)
        if name in POINTWISE:
            return self._pointwise(node, name)
        raise UnsupportedError(f"no kernel has {target}")

    def _pointwise(self, node: Any, name: str) -> Value:
        if set(node.kwargs) - {"alpha"} or node.kwargs.get("alpha", 1) != 1:
            raise UnsupportedError(f"no kernel has {node.target} with {dict(node.kwargs)}")
        values = [self._operand(argument) for argument in node.args]
        batched, single = any(v.batched for v in values), all(v.single for v in values)
        number = max(len(value.tiles) for value in values)
        result = self._named_like(node, number, batched, single)
        for k, tile in enumerate(result.tiles):
            operands = [v.tiles[k if len(v.tiles) > 1 else 0] for v in values]
            alike = [(v.batched, v.single) == (batched, single) for v in values]
            folded = _without_zeros(name, operands, alike)
            if folded is not None:
                result.tiles[k] = folded
                continue
            real = [v for v, o in zip(values, operands, strict=True) if not _is_number(o)]
            shape = any(v.batched for v in real), all(v.single for v in real)
            if shape != (batched, single) or not real:  # a number determines the shape
                place = next(n for n, operand in enumerate(operands) if _is_number(operand))
                operands[place] = self._full(operands[place], node, batched, single)
            code = POINTWISE[name].format(*(f"({o})" if o[0] == "-" else o for o in operands))
            self.body.append(f"{tile} = {code}")
        return result

    def _product(self, node: Any) -> Value:
        value, matrix = (self._values[argument] for argument in node.args)
        if isinstance(value, Matrix) or not isinstance(matrix, Matrix):
            raise UnsupportedError("no kernel multiplies but states by matrices")
        if all(map(_is_number, value.tiles)) and not any(map(float, value.tiles)):
            number, single = self._extent(node)
            return Value(["0.0"] * number, True, single)
        operands = self._masked(self._whole(value, node.args[0]), node)
        number, _ = self._extent(node)
        result = self._named_like(node, number, True, False)
        kind = DTYPES[node.meta["val"].dtype]
        for j, tile in enumerate(result.tiles):
            total = ""  # of the products before
            for i, operand in enumerate(operands):
                right = self._tile_of(matrix, i, j)
                dot = f"tl.dot({operand}, {right}{total}, input_precision=PRECISION)"
                self.body.append(f"{tile} = {dot}")
                total = f", {tile}"
            if kind in ("tl.float16", "tl.bfloat16"):
                self.body.append(f"{tile} = {tile}.to({kind})")
        return result

    def _tile_of(self, matrix: Matrix, i: int, j: int) -> str:
        """Return a tile of a matrix, which is loaded before the loop."""
        if (matrix, i, j) not in self._loaded:
            name = self._fresh(f"{matrix.name}{'_t' * matrix.turned}_{i}_{j}")
            self._loaded[matrix, i, j] = name
            down, across = ("columns", "inner") if matrix.turned else ("inner", "columns")
            top, left = (j, i) if matrix.turned else (i, j)
            start = (top * matrix.columns + left) * self.hidden
            place = f"{matrix.name}_ptr + {start} + {down} * {matrix.columns} + {across}"
            self.before.append(f"{name} = tl.load({place}, mask=square, other=0.0)")
        return self._loaded[matrix, i, j]

    def _turn(self, node: Any) -> Matrix:
        matrix = self._values[node.args[0]]
        if not isinstance(matrix, Matrix):
            raise UnsupportedError(f"no kernel has {node.target} of what is no matrix")
        return matrix._replace(turned=not matrix.turned)

    def _view(self, node: Any) -> Value:
        """Add or remove leading extents of 1."""
        source = node.args[0]
        shapes = [[e for e in self._shape(n)[:-1] if e != 1] for n in (source, node)]
        if shapes[0] != shapes[1] or self._shape(source)[-1:] != self._shape(node)[-1:]:
            raise UnsupportedError(f"no kernel has {node.target} to {self._shape(node)}")
        return self._values[source]

    def _expand(self, node: Any) -> Value:
        value = self._values[node.args[0]]
        return self._whole(value._replace(batched=False), node)

    def _cat(self, node: Any) -> Value:
        parts = [self._values[part] for part in node.args[0]]
        if any(part.single for part in parts):
            raise self._odd(node)
        batched = any(part.batched for part in parts)
        return Value([tile for part in parts for tile in part.tiles], batched)

    def _split(self, node: Any) -> list[Value]:
        value, sizes = self._values[node.args[0]], node.args[1]
        bounds = [0]
        for size in sizes:
            bounds.append(bounds[-1] + size)
        return [self._part(node, value, a, b) for a, b in pairwise(bounds)]

    def _slice(self, node: Any) -> Value:
        source, dim, start, stop = node.args[:4]
        shape = self._shape(source)
        if dim not in (-1, len(shape) - 1) or len(node.args) > 4:
            raise UnsupportedError(f"no kernel has {node.target} but of columns side by side")
        start, stop, _ = slice(start, stop).indices(shape[-1])
        return self._part(node, self._values[source], start, stop)

    def _part(self, node: Node, value: Value, start: int, stop: int) -> Value:
        if start % self.hidden or stop % self.hidden or value.single:
            raise self._odd(node)
        return value._replace(tiles=value.tiles[start // self.hidden : stop // self.hidden])

    def _sum(self, node: Any) -> Value:
        """Write a sum or mean over the columns, kept as one column, or a sum over the batch."""
        source = node.args[0]
        value, shape = self._values[source], self._shape(source)
        dims = [dim % len(shape) for dim in (node.args[1] if len(node.args) > 1 else ())]
        keeps = len(node.args) > 2 and node.args[2]
        mean = "mean" in str(node.target)
        if dims == [len(shape) - 1] and keeps and not value.single:
            total = self._over_columns(self._whole(value, source), node)
            result = self._named_like(node, 1, value.batched, True)
            self.body.append(f"{result.tiles[0]} = {total}" + (f" / {shape[-1]}" if mean else ""))
            return result
        if dims == [0] and self._is_batched(source) and not mean:
            whole = self._whole(value, source)
            result = self._named_like(node, len(whole.tiles), False, value.single)
            for tile, old in zip(result.tiles, whole.tiles, strict=True):
                masked = f"tl.where(row, {old}, 0.0)"
                self.body.append(f"{tile} = tl.sum({masked}, axis=0, keep_dims=True)")
            return result
        raise UnsupportedError(f"no kernel has {node.target} over {dims} of {tuple(shape)}")

    def _layer_norm(self, node: Any) -> list[Value]:
        source, (width,), weight, bias, eps = node.args
        value = self._whole(self._values[source], source)
        if value.single or self._shape(source)[-1] != width:
            raise self._odd(node)
        name = _numbered(node)
        mean, scale = self._fresh(f"mean_{name}"), self._fresh(f"scale_{name}")
        self.body.append(f"{mean} = {self._over_columns(value, node)} / {width}")
        centred = self._tiles(self._fresh(f"centred_{name}"), len(value.tiles))
        for tile, old in zip(centred, value.tiles, strict=True):
            self.body.append(f"{tile} = tl.where(unit, {old} - {mean}, 0.0)")
        squares = _sum_of([f"{tile} * {tile}" for tile in centred])
        self.body.append(f"{scale} = 1 / tl.sqrt({squares} / {width} + {eps})")
        result = self._named_like(node, len(centred), True, False)
        for k, tile in enumerate(result.tiles):
            code = f"{centred[k]} * {scale}"
            code += f" * {self._values[weight].tiles[k]}" if weight is not None else ""
            code += f" + {self._values[bias].tiles[k]}" if bias is not None else ""
            self.body.append(f"{tile} = {code}")
        return [result, Value([mean], True, True), Value([scale], True, True)]

    def _cast(self, node: Any) -> Value:
        value, kind = self._values[node.args[0]], DTYPES.get(node.meta["val"].dtype)
        if kind is None or isinstance(value, Matrix):
            raise UnsupportedError(f"no kernel has {node.target} to {node.meta['val'].dtype}")
        result = self._named_like(node, len(value.tiles), value.batched, value.single)
        for k, old in enumerate(value.tiles):
            if _is_number(old):
                result.tiles[k] = old
            else:
                self.body.append(f"{result.tiles[k]} = {old}.to({kind})")
        return result

    def _power(self, node: Any) -> Value:
        """Write a small whole power as a product."""
        value, power = self._whole(self._operand(node.args[0]), node), node.args[1]
        if power not in (1, 2, 3, 4):
            raise UnsupportedError(f"no kernel has {node.target} to {power}")
        result = self._named_like(node, len(value.tiles), value.batched, value.single)
        for tile, old in zip(result.tiles, value.tiles, strict=True):
            self.body.append(f"{tile} = {' * '.join([old] * int(power))}")
        return result

    def _clamp(self, node: Any) -> Value:
        value = self._whole(self._operand(node.args[0]), node)
        low, high = (*node.args[1:], None, None)[:2]
        result = self._named_like(node, len(value.tiles), value.batched, value.single)
        for tile, old in zip(result.tiles, value.tiles, strict=True):
            for name, bound in (("maximum", low), ("minimum", high)):
                if bound is not None:
                    self.body.append(f"{tile} = {POINTWISE[name].format(old, bound)}")
                    old = tile
        return result

    # -- parts -------------------------------------------------------------------------------

    def _operand(self, argument: Any) -> Value:
        """Return an operand of a pointwise operation; numbers have no extent."""
        if not isinstance(argument, Node):
            return Value([repr(argument)], False, True)
        value = self._values[argument]
        if isinstance(value, Matrix):
            raise UnsupportedError("a kernel keeps matrices for products alone")
        return value

    def _whole(self, value: Value, node: Node) -> Value:
        """Broadcast a value to the rows and columns of a node."""
        number, single = self._extent(node)
        batched = self._is_batched(node)
        if (value.single and not single) or len(value.tiles) != number:
            value = Value(value.tiles * number, value.batched, False)
        elif value.batched == batched and not any(map(_is_number, value.tiles)):
            return value
        tiles = self._tiles(self._fresh(f"wide_{_numbered(node)}"), number)
        for wide, tile in zip(tiles, value.tiles, strict=True):
            if _is_number(tile):
                code = self._full(tile, node, batched, single)
            else:
                code = f"tl.broadcast_to({tile}, {self._shape_of(batched, single)})"
            self.body.append(f"{wide} = {code}")
        return Value(tiles, batched, single)

    def _full(self, number: str, node: Node, batched: bool, single: bool) -> str:
        kind = DTYPES[node.meta["val"].dtype]
        return f"tl.full({self._shape_of(batched, single)}, {number}, {kind})"

    def _shape_of(self, batched: bool, single: bool) -> str:
        """Return the shape of a tile."""
        return f"({'BLOCK' if batched else 1}, {1 if single else self.padded})"

    def _masked(self, value: Value, node: Node) -> list[str]:
        """Return tiles with zero padding: it may hold values that are not numbers."""
        if self.hidden == self.padded:
            return value.tiles
        masked = self._tiles(self._fresh(f"masked_{_numbered(node)}"), len(value.tiles))
        for tile, old in zip(masked, value.tiles, strict=True):
            self.body.append(f"{tile} = tl.where(unit, {old}, 0.0)")
        return masked

    def _over_columns(self, value: Value, node: Node) -> str:
        return _sum_of(self._masked(value, node))

    def _named_like(self, node: Node, number: int, batched: bool, single: bool) -> Value:
        return Value(self._tiles(self._fresh(_numbered(node)), number), batched, single)

    def _tiles(self, name: str, number: int) -> list[str]:
        return [self._fresh(f"{name}_{k}") for k in range(number)] if number > 1 else [name]

    def _extent(self, node: Node) -> tuple[int, bool]:
        """Return the number of tiles of a tensor, and whether it is one column."""
        shape = self._shape(node)
        width = shape[-1] if shape else 1
        if len(shape) > 2 or (len(shape) == 2 and shape[0] not in (1, self.traced.batch)):
            raise self._odd(node)
        if width % self.hidden == 0:
            return width // self.hidden, False
        if width == 1:
            return 1, True
        raise self._odd(node)

    def _is_batched(self, node: Node) -> bool:
        shape = self._shape(node)
        return len(shape) == 2 and shape[0] == self.traced.batch

    def _shape(self, node: Any) -> Sequence[int]:
        tensor: Tensor = node.meta["val"]
        return tuple(tensor.shape)

    def _odd(self, node: Node) -> UnsupportedError:
        name = self._given.get(node, node.target)
        tensor = node.meta.get("val")
        shape = f" of {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else ""
        return UnsupportedError(
            f"no kernel has {name}{shape}: its tensors' widths are multiples of the hidden size, "
            f"{self.hidden}"
        )

    def _fresh(self, name: str) -> str:
        """Return an unused name."""
        name = "".join(c if c.isalnum() else "_" for c in name)
        name += "_" * name.endswith("_ptr")  # arguments have this ending
        fresh, number = name, 1
        while fresh in self._taken or _is_number(fresh):
            number += 1
            fresh = f"{name}__{number}"
        self._taken.add(fresh)
        return fresh


def padded(hidden: int) -> int:
    """Return the columns of a tile: the next power of two, and at least 16 for a product."""
    return max(16, 1 << (hidden - 1).bit_length())


def is_read(node: Node) -> bool:
    """Return whether an operation reads the values of a tensor, not only its shape."""
    packets = (getattr(user.target, "overloadpacket", None) for user in node.users)
    return any(packet is None or packet.__name__ not in CONSTANT for packet in packets)


def _numbered(node: Node) -> str:
    """Return a node's name with its number attached, before the number of the tile: add1_0."""
    whole = node.name.replace("native_layer_norm", "norm").replace("_to_copy", "cast")
    name, _, number = whole.rpartition("_")
    return f"{name}{number}" if number.isdigit() else f"{whole}0"


def _sum_of(tiles: Sequence[str]) -> str:
    """Return the sum over the columns of all tiles."""
    return f"tl.sum({' + '.join(tiles)}, axis=1, keep_dims=True)"


def _is_number(tile: str) -> bool:
    try:
        float(tile)
    except ValueError:
        return False
    return True


def _without_zeros(name: str, operands: Sequence[str], alike: Sequence[bool]) -> str | None:
    """Return the result if an operand is zero, like the gradient of an unread gate; else None.

    Args:
        name: the operation.
        operands: the tiles.
        alike: whether each operand has the result's shape.
    """
    zero = [_is_number(operand) and not float(operand) for operand in operands]
    if name == "mul" and any(zero):
        return "0.0"
    if name == "add" and zero[0] and alike[1]:
        return operands[1]
    return operands[0] if name in ("add", "sub") and zero[1] and alike[0] else None
