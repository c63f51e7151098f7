"""The libraries of compiled steps: each is traced and compiled once.

A library is one step, in C++ by inductor with symbolic sizes, within the loop over time of
`runtime.h`. A later process needs neither the compiler nor its imports.
"""

import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache as once
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from cellzoo.engines.compiled.cpu import cache, inductor
from cellzoo.engines.compiled.cpu.library import Argument, Library
from cellzoo.engines.compiled.groups import grouped
from cellzoo.engines.errors import CompileError, in_one_line

# The functions of runtime.h that inductor's code may call.
CALLS = {"empty_strided", "new_tensor_handle", "assign_tensors_out", "cpu_mm_out", "cpu_addmm_out",
         "cpu_bmm_out", "cpu_cumsum"}  # fmt: skip


def library_of(
    identity: str,
    step: Callable[..., list[Tensor]],
    sizes: list[int],
    arguments: list[Argument],
    targets: list[int],
) -> Callable[[], Library]:
    """Find a step's library in the cache, or trace the step and begin to compile it.

    Args:
        identity: a text of all that the step does.
        step: a function from groups of tensors to its results.
        sizes: the sizes of these groups.
        arguments: the arguments that the step reads and writes, its groups first.
        targets: the places of the arguments that its results are written to.

    Returns:
        A function that waits for the compiler and returns the library. It may raise CompileError.

    Raises:
        CompileError: the cell cannot be traced or compiled.
    """
    dtypes = " ".join(str(argument.tensor.dtype) for argument in arguments)
    identity = cache.key(_sources(), identity, dtypes)
    linked = cache.linked(identity)
    known = linked is not None and cache.find(linked) is not None
    wait = None if known else _make(partial(_trace, step, sizes, arguments, targets))

    @once
    def library() -> Library:
        key = wait() if wait else str(linked)
        cache.link(identity, key)
        program = cache.find(key)
        if program is None:
            raise CompileError(f"a program vanished from {cache.folder()}")
        return Library(*program)

    return library


_compiler = Lock()  # inductor's settings are those of the whole process


def _make(trace: Callable[[], tuple[torch.fx.GraphModule, list[Tensor]]]) -> Callable[[], str]:
    """Trace a step, and compile it in a thread unless the cache has it.

    Returns:
        A function that waits for the compiler and returns the library's key.
    """
    with _compiler, warnings.catch_warnings(), _as_compile_error():
        warnings.simplefilter("ignore")  # inductor warns about itself
        graph, example = trace()
        key = cache.key(_sources(), _text(graph))
        if cache.find(key):
            return lambda: key
        folder = tempfile.TemporaryDirectory()
        source = _with_runtime(inductor.source_of(graph, example))
        builder = inductor.builder_of(source, Path(folder.name))
        noted = _sizes(graph)

    def compile_and_store() -> str:
        with folder, _as_compile_error():
            cache.store(key, inductor.build(builder), noted)
        return key

    # A new thread, because the threads of a shared pool do not survive a fork.
    pool = ThreadPoolExecutor(1)
    compiling = pool.submit(compile_and_store)
    pool.shutdown(wait=False)
    process = os.getpid()

    def wait() -> str:
        if os.getpid() != process and not compiling.done():
            raise CompileError("this process was forked while another thread compiled the cell")
        return compiling.result()

    return wait


@contextmanager
def _as_compile_error() -> Iterator[None]:
    """Raise every error as a CompileError."""
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
    """Return the step's graph with symbolic sizes, and the example that it was traced with."""
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import

    # Tracing takes equal extents for one symbol.
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
    """Return a traced graph as text: its operations, constants, shapes and dtypes."""
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
    """Return the place of each symbolic size, and the guards that inductor assumed of them."""
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


def _with_runtime(code: str) -> str:
    """Return inductor's code on the runtime of this folder instead of torch's.

    Raises:
        CompileError: the code calls a function that the runtime does not have.
    """
    if missing := {*re.findall(r"\baoti_torch_(\w+)\(", code)} - CALLS:
        names = ", ".join(sorted(name.removeprefix("cpu_") for name in missing))
        raise CompileError(f"a step of it calls {names}, which compiled steps cannot")
    # All threads share inductor's flag of a division by 0. Without the flag it raises at once.
    code = re.sub(r"^.*inductor_cpu_(?:throw_if_)?integer_div_error.*\n", "", code, flags=re.M)
    # The runtime's own functions, which the C++ compiler inlines.
    code = re.sub(r"(?<![\w.])(\w+(?:\.neg\(\))?)\.(exp|tanh)\(\)", r"cellzoo::\2(\1)", code)
    wrapper, kernels = code.split("#include <torch/csrc/inductor/cpp_prefix.h>", 1)
    kernels = _with_restrict(wrapper, kernels)
    wrapper = re.sub(r"^#include .*$", "", wrapper, flags=re.M)
    runtime = Path(__file__).with_name("runtime.h").read_text()
    return f"{runtime}\nnamespace cellzoo {{\n{wrapper}\n}}\n{kernels}"


def _with_restrict(wrapper: str, kernels: str) -> str:
    """Return the kernels with `__restrict__` for each pointer that shares no memory in its call.

    Without it, a value of a row, such as the scale of a norm, is read and divided again for each
    number that the loop writes.
    """
    origin = r"auto (\w+) = .*?(?:move|reinterpret_tensor_wrapper)\(((?:buf|arg)\w+)"
    origins = dict(re.findall(origin, wrapper))

    def storage(name: str) -> str:
        return storage(origins[name]) if name in origins else name

    calls = re.findall(r"^    (cpp_\w+)\((.*)\);$", wrapper, flags=re.M)
    names = [name for name, _ in calls]
    for kernel, call in calls:
        storages = [storage(name) for name in re.findall(r"\*\)\((\w+)\.data_ptr", call)]
        head = re.search(rf"void +{kernel}\(([^)]*)\)", kernels)
        if head is None or head[1].count("*") != len(storages) or names.count(kernel) > 1:
            continue
        marks = [" __restrict__" if storages.count(name) == 1 else "" for name in storages]
        before, *after = head[1].split("*")
        apart = before + "".join(f"*{mark}{rest}" for mark, rest in zip(marks, after, strict=True))
        kernels = kernels.replace(f"{kernel}({head[1]})", f"{kernel}({apart})", 1)
    return kernels


@once
def _sources() -> str:
    """Return a hash of the code that makes libraries of an update."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in _source_files())).hexdigest()


def _source_files() -> list[Path]:
    """Return the files of `_sources`: whole rooms, because a list of files is soon incomplete."""
    package, compiled = Path(__file__).parents[3], "engines/compiled/**/*"
    patterns = ("cells/*.py", "engines/*.py", f"{compiled}.py", f"{compiled}.h")
    return sorted(path for pattern in patterns for path in package.glob(pattern))
