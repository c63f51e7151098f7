"""Compiled steps as libraries: traced, and compiled once.

A library is one step, which inductor makes into C++ with symbolic sizes, within the loop over time
of `runtime.h`. A later process needs neither the compiler nor its imports.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache as once
from itertools import count
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor

from cellzoo.cells import base
from cellzoo.engines.compiled import cache
from cellzoo.engines.compiled.library import Argument, Library
from cellzoo.engines.compiled.steps import grouped
from cellzoo.engines.errors import CompileError, in_one_line

if TYPE_CHECKING:
    from torch._inductor.cpp_builder import CppBuilder

# What runtime.h has of the functions that the compiler's code may call.
CALLS = {"empty_strided", "new_tensor_handle", "assign_tensors_out", "cpu_mm_out", "cpu_addmm_out",
         "cpu_bmm_out", "cpu_cumsum"}  # fmt: skip


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
    known = linked is not None and cache.find(linked) is not None
    wait = None if known else _make(step, sizes, arguments, targets)

    @once
    def library() -> Library:
        key = wait() if wait else str(linked)
        cache.link(identity, key)
        found = cache.find(key)
        if found is None:
            raise CompileError(f"a program vanished from {cache.folder()}")
        return Library(*found)

    return library


_compiler = Lock()  # what is set for it is set for the whole process


def _make(
    step: Callable[..., list[Tensor]],
    sizes: list[int],
    arguments: list[Argument],
    targets: list[int],
) -> Callable[[], str]:
    """Trace, and compile in a thread what was never compiled.

    Returns:
        Waits for the compiler and gives the library's key.
    """
    with _compiler, warnings.catch_warnings(), _named():
        warnings.simplefilter("ignore")  # the compiler's own, about itself
        graph, example = _trace(step, sizes, arguments, targets)
        key = cache.key(_sources(), _text(graph))
        if cache.find(key):
            return lambda: key
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
    process = os.getpid()

    def wait() -> str:
        if os.getpid() != process and not made.done():
            raise CompileError("it was being compiled when this process was forked off")
        return made.result()

    return wait


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
def _sources() -> str:
    """The code that makes libraries of an update, as a hash."""
    here, cells = Path(__file__).parent, Path(base.__file__).parent
    # All of this folder: which of it decides what a library reads and writes is easily forgotten.
    files = sorted(path for path in here.iterdir() if path.suffix in (".py", ".h"))
    files += [cells / f"{name}.py" for name in ("base", "layout", "preactivations")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
