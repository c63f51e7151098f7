"""Compiled steps as libraries: traced, compiled once, and called.

A library is one step, which inductor makes into C++ with symbolic sizes, within the loop over time
of `runtime.h`. A later process needs neither the compiler nor its imports.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import operator
import os
import re
import tempfile
import warnings
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache as once
from itertools import count, pairwise
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from cellzoo.cells import base
from cellzoo.engines.compiled import cache
from cellzoo.engines.compiled.lengths import Lengths
from cellzoo.engines.compiled.steps import grouped
from cellzoo.engines.errors import CompileError, in_one_line

if TYPE_CHECKING:
    from torch._inductor.cpp_builder import CppBuilder

SMALL = 1 << 20  # multiply-adds of a product for which another thread is not worth to be woken
DTYPES = {
    torch.float32: 6,
    torch.float64: 7,
    torch.bfloat16: 15,
    torch.int64: 4,
    torch.bool: 11,
    torch.int32: 3,
}  # fmt: skip  (torch's numbers of them)
# As runtime.h has it: dimensions of a tensor, at most; words of an argument, and of a product.
DIMS, WORDS, WORDS_OF_PRODUCT = 6, 15, 9
KEPT = 256  # sizes of tensors for which a library's arguments are kept
# What runtime.h has of the functions that the compiler's code may call.
CALLS = {"empty_strided", "new_tensor_handle", "assign_tensors_out", "cpu_mm_out", "cpu_addmm_out",
         "cpu_bmm_out", "cpu_cumsum"}  # fmt: skip

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
    "And": lambda *each: all(each),
    "Or": lambda *each: any(each),
    "Not": operator.not_,
}


class Argument(NamedTuple):
    """What a step reads or writes of a tensor.

    Attributes:
        tensor: contiguous.
        axis: what its first extent is: "time", the rows of a batch step by step, of which each
            step sees its own; "turn", two of which steps take in turns, to read what the last one
            wrote; "sum", of rows of the batch, or of its parts, each of which sees its own at all
            steps; or none of these.
        batched: whether a step sees rows of the batch.
        first: what the first step sees of time, or of turns. Step -1 has rows for all sequences,
            before the tensor.
    """

    tensor: Tensor
    axis: str = ""
    batched: bool = False
    first: int = 0

    @property
    def apart(self) -> bool:
        """Whether there is one for each part of a batch."""
        return self.axis == "sum" and not self.batched

    @property
    def sizes(self) -> torch.Size:
        """The tensor's, without how many rows it has over time."""
        shape = self.tensor.shape
        return shape[1:] if self.axis == "time" else shape

    def shape(self, rows: int) -> tuple[int, ...]:
        """What a step sees, of a batch of this size."""
        shape = self.tensor.shape[{"time": 1, "turn": 2, "sum": 1, "": 0}[self.axis] :]
        return (rows, *shape) if self.batched else tuple(shape)

    def packed(self) -> list[int]:
        """As runtime.h has it."""
        tensor, shape = self.tensor, self.shape(0)
        # Not the tensor's own: of an extent of 1 it may be any.
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
    """One argument as another's product with a weight (or a part of its columns).

    Attributes:
        of, to: the places of the arguments.
        add: whether it is added to what is there.
        weight: (rows, columns).
        columns: the first one that is used, and how many are.
        turned: whether the weight is applied as it is to rows; else its transpose is.
    """

    of: int
    to: int
    add: bool
    weight: Tensor
    columns: tuple[int, int]
    turned: bool

    @property
    def address(self) -> int:
        """Where the columns begin."""
        return self.weight.data_ptr() + self.columns[0] * self.weight.itemsize

    def packed(self) -> list[int]:
        """As runtime.h has it."""
        weight, (_, width) = self.weight, self.columns
        rows, all_columns = weight.shape
        sizes = (rows, width, all_columns, 1) if self.turned else (width, rows, 1, all_columns)
        return [self.address, self.of, self.to, self.add, *sizes, DTYPES[weight.dtype]]


class Library:
    """A step's compiled code, in its loop over time.

    Args:
        path: the shared library.
        noted: what its caller must know: `sizes`, where each symbol is read, and `guards`, what
            must hold of them.

    Attributes:
        loaded: the last one that was loaded, whose `linear` and `outer` are like any other's.
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

    def run(
        self,
        arguments: list[Argument],
        products: list[Product],
        lengths: Lengths,
        parts: int,
        backwards: bool,
    ) -> None:
        """Run all steps; each part of the batch by itself.

        Raises:
            CompileError: the steps do something else for these sizes.
        """
        bounds = lengths.bounds(parts)
        for first, end in pairwise(bounds):
            for rows in {min(size, end) - first for size in lengths.distinct_sizes}:
                if rows > 0 and rows not in self._fitting:
                    self._check(arguments, rows)
                    self._fitting.add(rows)
        sizes, ends = array("q", lengths.batch_sizes), array("q", bounds)
        flat, more = self._pack(arguments, products)
        failed = self._code.cellzoo_run(
            ctypes.c_int64(lengths.steps),
            ctypes.c_void_p(sizes.buffer_info()[0]),
            ctypes.c_int64(parts),
            ctypes.c_void_p(ends.buffer_info()[0]),
            ctypes.c_int64(backwards),
            ctypes.c_void_p(flat.buffer_info()[0]),
            ctypes.c_int64(len(arguments)),
            ctypes.c_void_p(more.buffer_info()[0]),
            ctypes.c_int64(len(products)),
        )
        if failed:
            raise CompileError(failed.decode())

    def _pack(
        self, arguments: list[Argument], products: list[Product]
    ) -> tuple[array[int], array[int]]:
        """As runtime.h has them. All but the addresses is made once for tensors of these sizes."""
        key = tuple(argument.sizes for argument in arguments)
        if key not in self._packed:
            if len(self._packed) == KEPT:
                self._packed.clear()
            self._packed[key] = (
                array("q", (n for argument in arguments for n in argument.packed())),
                array("q", (n for product in products for n in product.packed())),
            )
        flat, more = (each[:] for each in self._packed[key])
        for place, argument in enumerate(arguments):
            flat[place * WORDS] = argument.tensor.data_ptr()
        for place, product in enumerate(products):
            more[place * WORDS_OF_PRODUCT] = product.address
        return flat, more

    def _check(self, arguments: list[Argument], rows: int) -> None:
        sizes = self._noted["sizes"]
        shapes = [argument.shape(rows) for argument in arguments]
        known = {symbol: shapes[place][dim] for symbol, (place, dim) in sizes.items()}
        for guard in self._noted["guards"]:
            if not eval(guard, ARITHMETIC, known):
                raise CompileError(f"compiled for other sizes: {guard} does not hold of {known}")

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """torch.nn.functional.linear of float32 or float64; all contiguous."""
        rows, depth = x.numel() // x.shape[-1], x.shape[-1]
        found = x.new_empty(*x.shape[:-1], len(weight))
        self._code.cellzoo_linear(
            ctypes.c_int64(x.dtype == torch.float64),
            *map(_address, (x, weight, bias, found)),
            *map(ctypes.c_int64, (rows, depth, len(weight))),
            ctypes.c_int64(_threads(rows * depth * len(weight))),
        )
        return found

    def outer(self, gradient: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """gradientᵀ · v over all rows, and the sums of the gradient's columns; as `linear`."""
        rows, m, n = gradient.numel() // gradient.shape[-1], gradient.shape[-1], v.shape[-1]
        found, sums = v.new_empty(m, n), v.new_empty(m)
        self._code.cellzoo_outer(
            ctypes.c_int64(v.dtype == torch.float64),
            *map(_address, (gradient, v, found, sums)),
            *map(ctypes.c_int64, (rows, m, n)),
            ctypes.c_int64(_threads(rows * m * n)),
        )
        return found, sums


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _threads(multiply_adds: int) -> int:
    return max(1, min(torch.get_num_threads(), multiply_adds // SMALL))


def library_of(
    identity: str,
    step: Callable[..., list[Tensor]],
    sizes: list[int],
    arguments: list[Argument],
    targets: list[int],
) -> Callable[[], Library]:
    """A step's library from the cache; else traced, and begun to be compiled, if not there either.

    Args:
        identity: what the step does, in words.
        step: from groups of tensors to its results.
        sizes: of these groups.
        arguments: what it reads and writes, its groups first.
        targets: which of them its results are written to.

    Returns:
        Waits for the compiler and gives the library; as this function, it may raise CompileError.

    Raises:
        CompileError: the cell cannot be traced or compiled.
    """
    dtypes = " ".join(str(argument.tensor.dtype) for argument in arguments)
    identity = cache.key(_sources(), identity, dtypes)
    linked = cache.linked(identity)
    if linked and cache.find(linked):
        made = Future[str]()
        made.set_result(linked)
    else:
        made = _make(step, sizes, arguments, targets)

    process = os.getpid()

    @once
    def library() -> Library:
        if os.getpid() != process and not made.done():
            raise CompileError("it was being compiled when this process was forked off")
        key = made.result()
        cache.link(identity, key)
        found = cache.find(key)
        if found is None:
            raise CompileError(f"a program vanished from {cache.folder()}")
        _keep_freed_memory()
        return Library(*found)

    return library


_compiler = Lock()  # what is set for it is set for the whole process


def _make(
    step: Callable[..., list[Tensor]],
    sizes: list[int],
    arguments: list[Argument],
    targets: list[int],
) -> Future[str]:
    """Trace, and compile in a thread what was never compiled; gives the library's key."""
    made = Future[str]()
    with _compiler, warnings.catch_warnings(), _named():
        warnings.simplefilter("ignore")  # the compiler's own, about itself
        graph, example = _trace(step, sizes, arguments, targets)
        key = cache.key(_sources(), _text(graph))
        if cache.find(key):
            made.set_result(key)
            return made
        folder = tempfile.TemporaryDirectory()
        builder = _builder(graph, example, Path(folder.name))
        noted = _sizes(graph)

    def compile_and_store() -> str:
        with folder, _named():
            cache.store(key, _compile(builder), noted)
        return key

    # A thread of its own, not one of a pool's: those do not survive a fork.
    pool = ThreadPoolExecutor(1)
    made = pool.submit(compile_and_store)
    pool.shutdown(wait=False)
    return made


@contextmanager
def _named() -> Iterator[None]:
    """Has what is raised be a CompileError."""
    try:
        yield
    except CompileError:
        raise
    except Exception as error:
        raise CompileError(in_one_line(error)) from error


def _trace(
    step: Callable[..., list[Tensor]],
    sizes: list[int],
    arguments: list[Argument],
    targets: list[int],
) -> tuple[torch.fx.GraphModule, list[Tensor]]:
    """The step's graph with symbolic sizes, and the example that it was traced with."""
    from torch.fx.experimental.proxy_tensor import make_fx  # heavy, and seldom needed

    # Extents that are equal when traced are taken for one and the same.
    taken = {extent for argument in arguments for extent in argument.tensor.shape}
    batch = next(n for n in count(5) if n not in taken)
    example = [argument.tensor.new_zeros(argument.shape(batch)) for argument in arguments]

    def traced(*tensors: Tensor) -> tuple[()]:
        results = step(*grouped(tensors, *sizes))
        for target, result in zip(targets, results, strict=True):
            tensors[target].copy_(result)
        return ()

    graph = make_fx(traced, tracing_mode="symbolic")(*example)
    return graph, example


def _text(graph: torch.fx.GraphModule) -> str:
    """A traced graph in words: its operations, constants, shapes and dtypes."""
    lines = []
    for name, module in graph.named_modules():
        if isinstance(module, torch.fx.GraphModule):
            lines.append(f"{name}: {module.code}")
            lines += [
                f"{node.name} {value.shape} {value.dtype} {value.device.type}"
                for node in module.graph.nodes
                if isinstance(value := node.meta.get("val"), Tensor)
            ]
    return "\n".join(lines)


def _sizes(graph: torch.fx.GraphModule) -> dict[str, Any]:
    """Where each symbol of the sizes can be read, and what the compiler assumed of them."""
    symbols: dict[str, tuple[int, int]] = {}
    environment: Any = None
    for place, node in enumerate(graph.graph.find_nodes(op="placeholder")):
        for dim, extent in enumerate(node.meta["val"].shape):
            if isinstance(extent, torch.SymInt):
                environment = extent.node.shape_env
                if extent.node.expr.is_Symbol:
                    symbols.setdefault(str(extent.node.expr), (place, dim))
    guards = {str(environment.replace(guard.expr)) for guard in environment.guards}
    return {"sizes": symbols, "guards": sorted(guards - {"True"})}


def _builder(graph: torch.fx.GraphModule, example: list[Tensor], folder: Path) -> CppBuilder:
    """A graph as C++ in this folder, and what compiles it there."""
    import torch._inductor as inductor  # heavy, as all of it
    from torch._inductor import config
    from torch._inductor.codecache import CppWrapperCodeCache
    from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions
    from torch._inductor.cpu_vec_isa import VecISA, pick_vec_isa
    from torch._inductor.loop_body import LoopBody

    codes: list[str] = []

    def noted(*arguments: Any, main_code: str, **keywords: Any) -> Any:
        codes.append(main_code)
        return lambda *handles: ()

    settings = {
        "cpp_wrapper": True,
        "cpp.threads": 1,  # parts of the batch are the loop's
        "size_asserts": False,
        "realize_opcount_threshold": 8,  # a number that was dear is kept, not made anew
        "cpp.enable_floating_point_contract_flag": "fast",  # a · b + c rounds once
        "force_disable_caches": True,  # `cache` is
    }
    log = logging.getLogger("torch._inductor.standalone_compile")
    # It would compile six programs to see which of the CPU's instructions the compiler knows.
    known = mock.patch.object(VecISA, "check_build", return_value=True)

    read_of = LoopBody.get_read_expr

    def read(body: LoopBody, name: str) -> Any:
        """Where a loop reads a buffer: nowhere, if it must only come after those that do."""
        try:
            return read_of(body, name)
        except KeyError:  # inductor's own check forgets such loops, that write in place
            return None

    with config.patch(settings), known, mock.patch.object(LoopBody, "get_read_expr", read):
        with (
            mock.patch.object(CppWrapperCodeCache, "load_pybinding", noted),
            mock.patch.object(log, "disabled", True),  # it warns that it cannot save: `cache` does
        ):
            inductor.standalone_compile(graph, [*example], dynamic_shapes="from_graph")
        if len(codes) != 1:
            raise CompileError(f"the compiler made {len(codes)} programs instead of one")
        (folder / "step.cpp").write_text(_with_runtime(codes[0]))
        options = CppTorchOptions(vec_isa=pick_vec_isa(), include_pytorch=True)
        return CppBuilder(
            name="step",
            sources=[str(folder / "step.cpp")],
            BuildOption=options,
            output_dir=str(folder),
        )


def _compile(builder: CppBuilder) -> Path:
    """Run the C++ compiler; returns the library."""
    builder.build()
    return Path(builder.get_target_file_path())


def _with_runtime(code: str) -> str:
    """The compiler's code on the runtime of this folder instead of torch's.

    Raises:
        CompileError: it calls what the runtime does not have.
    """
    if missing := {*re.findall(r"\baoti_torch_(\w+)\(", code)} - CALLS:
        names = ", ".join(sorted(name.removeprefix("cpu_") for name in missing))
        raise CompileError(f"a step of it calls {names}, which compiled steps cannot")
    # The compiler's note of a division by 0 is one for all threads; without, it raises at once.
    code = re.sub(r"^.*inductor_cpu_(?:throw_if_)?integer_div_error.*\n", "", code, flags=re.M)
    # The runtime's own functions, which are no calls.
    code = re.sub(r"(?<![\w.])(\w+(?:\.neg\(\))?)\.(exp|tanh)\(\)", r"cellzoo::\2(\1)", code)
    wrapper, kernels = code.split("#include <torch/csrc/inductor/cpp_prefix.h>", 1)
    kernels = _apart(wrapper, kernels)
    wrapper = re.sub(r"^#include .*$", "", wrapper, flags=re.M)
    runtime = Path(__file__).with_name("runtime.h").read_text()
    return f"{runtime}\nnamespace cellzoo {{\n{wrapper}\n}}\n{kernels}"


def _apart(wrapper: str, kernels: str) -> str:
    """The kernels with `__restrict__` for each pointer whose memory no other one of its call has.

    Else what a loop reads of a row, as a norm's scale, is read and divided anew for each number
    that it writes.
    """
    origin = r"auto (\w+) = .*?(?:move|reinterpret_tensor_wrapper)\(((?:buf|arg)\w+)"
    origins = dict(re.findall(origin, wrapper))

    def storage(name: str) -> str:
        return storage(origins[name]) if name in origins else name

    calls = re.findall(r"^    (cpp_\w+)\((.*)\);$", wrapper, flags=re.M)
    names = [name for name, _ in calls]
    for kernel, call in calls:
        storages = [storage(name) for name in re.findall(r"\*\)\((\w+)\.data_ptr", call)]
        found = re.search(rf"void +{kernel}\(([^)]*)\)", kernels)
        if found is None or found[1].count("*") != len(storages) or names.count(kernel) > 1:
            continue
        marked = [" __restrict__" if storages.count(name) == 1 else "" for name in storages]
        before, *after = found[1].split("*")
        each = zip(marked, after, strict=True)
        apart = before + "".join(f"*{mark}{rest}" for mark, rest in each)
        kernels = kernels.replace(f"{kernel}({found[1]})", f"{kernel}({apart})", 1)
    return kernels


@once
def _keep_freed_memory() -> None:
    """Have glibc keep what a sequence frees for the next, instead of handing it back each time.

    To get its pages anew took a third of a backward pass.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 25)  # the most that it takes


@once
def _sources() -> str:
    """The code that makes libraries of an update, as a hash."""
    here, cells = Path(__file__).parent, Path(base.__file__).parent
    # All of this folder: which of it decides what a library reads and writes is easily forgotten.
    files = sorted(path for path in here.iterdir() if path.suffix in (".py", ".h"))
    files += [cells / f"{name}.py" for name in ("base", "layout", "preactivations")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
