"""Compiled steps: one program forward and one backward for a cell, whatever the sizes.

A program is a C++ loop over time that inductor makes of the traced steps, with symbolic sizes. It
is called through the library that inductor built, so that a later process needs neither the
compiler nor its imports.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import logging
import operator
import os
import re
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache as once
from itertools import count, islice
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor

from cellzoo.cells import base
from cellzoo.cells.base import GatedCell
from cellzoo.engines.compiled import cache
from cellzoo.engines.compiled.steps import Step, Steps, grouped, loop
from cellzoo.engines.errors import CompileError, in_one_line
from cellzoo.threads import on_threads

COMPILE = True  # tests also run the steps as they are
ALONE = 1024  # numbers of a state for which one thread is faster than to wait for more

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


class Programs:
    """The compiled forward and backward of a cell's steps.

    Args:
        steps: the functions.
    """

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self._made: dict[str, Program] = {}

    def forward(self, *groups: list[Tensor]) -> list[Tensor]:
        """`Steps.forward`, compiled."""
        return self._call("forward", groups)

    def backward(self, *groups: list[Tensor]) -> list[Tensor]:
        """`Steps.backward`, compiled."""
        return self._call("backward", groups)

    def _call(self, name: str, groups: tuple[list[Tensor], ...]) -> list[Tensor]:
        flat = [tensor for group in groups for tensor in group]
        length, batch = flat[0].shape[:2]
        if not COMPILE or not batch:
            return getattr(self.steps, name)(loop, *groups)
        if name not in self._made:
            self._made[name] = program(self.steps, name, [len(group) for group in groups], flat)
        small = batch * self.steps.cell.hidden_size <= ALONE
        with on_threads(1) if small and torch.get_num_threads() > 1 else nullcontext():
            return self._made[name](flat, (length, batch))


class Program:
    """A function of tensors, compiled.

    Args:
        entry: the library's function, from handles of tensors to such handles.
        noted: what its caller must know: `outputs`, which of the library's outputs each is;
            `sizes`, where each symbol is read, and `guards`, what must hold of them.
    """

    def __init__(self, entry: Callable[[Any], Any], noted: dict[str, Any]) -> None:
        self._entry = entry
        self._noted = noted
        self._fitting: set[Any] = set()

    def __call__(self, flat: list[Tensor], sizes: Any) -> list[Tensor]:
        """Run it; `sizes` are the extents that may differ from call to call.

        Raises:
            CompileError: the steps do something else for these sizes.
        """
        if sizes not in self._fitting:
            self._check(flat)
            self._fitting.add(sizes)
        handles = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(flat)
        found = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(self._entry(handles))
        return [found[number] for number in self._noted["outputs"]]

    def _check(self, flat: list[Tensor]) -> None:
        sizes = self._noted["sizes"]
        known = {symbol: flat[place].shape[dim] for symbol, (place, dim) in sizes.items()}
        for guard in self._noted["guards"]:
            if not eval(guard, ARITHMETIC, known):
                raise CompileError(f"compiled for other sizes: {guard} does not hold of {known}")


def scan(
    step: Step, carry: Any, inputs: Any, shared: Any, backwards: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """`loop` as one operation, for tracing; `_FromTheEnd` turns those that run backwards."""
    distinct = list({id(tensor): tensor for tensor in shared}.values())
    places = [next(n for n, each in enumerate(distinct) if each is tensor) for tensor in shared]
    numbers = len(carry), len(inputs), len(distinct)
    extents = [e for t in (*carry, *inputs, *shared) for e in t.shape]
    symbols = {e.node.expr: e for e in extents if isinstance(e, torch.SymInt)}

    def combine(*flat: Any) -> list[Tensor]:
        now, values, constant = grouped(flat, *numbers)
        new, outputs = step(now, values, [constant[place] for place in places])
        # No output may share memory with another, or with an input.
        return [t.clone(memory_format=torch.contiguous_format) for t in (*new, *outputs)]

    run: Any = torch.ops.higher_order.scan
    found = run(combine, list(carry), list(inputs), (*distinct, *symbols.values()))
    return list(found[: len(carry)]), list(found[len(carry) :])


def program(steps: Steps, name: str, sizes: list[int], flat: list[Tensor]) -> Program:
    """A program from the cache; else traced, and compiled if that is not there either.

    Raises:
        CompileError: the cell cannot be traced or compiled.
    """
    dtypes = " ".join(str(tensor.dtype) for tensor in flat)
    identity = cache.key(_sources(), steps.identity, name, dtypes)
    key = cache.linked(identity)
    found = cache.find(key) if key else None
    if found is None:
        key = _make(steps, name, sizes, flat)
        cache.link(identity, key)
        found = cache.find(key)
        if found is None:
            raise CompileError(f"a program vanished from {cache.folder()}")
    library, noted = found
    _keep_freed_memory()
    return Program(_load(library), noted)


def _make(steps: Steps, name: str, sizes: list[int], flat: list[Tensor]) -> str:
    """Trace, and compile what was never compiled; returns the program's key."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, about itself
        try:
            example = _example(sizes, flat)
            graph, outputs = _trace(getattr(steps, name), sizes, example)
            key = cache.key(_sources(), _text(graph))
            if cache.find(key) is None:
                library = _compile(graph, example, backwards=name == "backward")
                cache.store(key, library, {"outputs": outputs, **_sizes(graph)})
            return key
        except CompileError:
            raise
        except Exception as error:
            raise CompileError(in_one_line(error)) from error


def _example(sizes: list[int], flat: list[Tensor]) -> list[Tensor]:
    """Inputs of the same widths, but of a length and a batch size that no other extent has.

    Extents that are equal when traced are taken for one and the same.
    """
    taken = {extent for tensor in flat for extent in tensor.shape}
    length, batch = islice((n for n in count(5) if n not in taken), 2)
    # What comes before the states has time's dimension: Steps.forward, Steps.backward.
    *over_time, states, weights, biases, extras = grouped(flat, *sizes)
    return [
        *(t.new_zeros(length, batch, *t.shape[2:]) for group in over_time for t in group),
        *(t.new_zeros(batch, *t.shape[1:]) for t in states),
        *(torch.zeros_like(t) for t in (*weights, *biases, *extras)),
    ]


def _trace(
    function: Any, sizes: list[int], example: list[Tensor]
) -> tuple[torch.fx.GraphModule, list[int]]:
    """The graph with symbolic sizes, and which of its outputs each output is: some are equal."""
    from torch.fx.experimental.proxy_tensor import make_fx  # heavy, and seldom needed

    outputs: list[int] = []

    def traced(*tensors: Tensor) -> list[Tensor]:
        found = function(scan, *grouped(tensors, *sizes))
        distinct: dict[int, Tensor] = {}
        for tensor in found:
            distinct.setdefault(id(tensor), tensor)
        outputs[:] = [list(distinct).index(id(tensor)) for tensor in found]
        return list(distinct.values())

    graph = make_fx(traced, {torch.ops.aten.tanh.default: _tanh}, tracing_mode="symbolic")(*example)
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.higher_order.scan):
        _simplify(graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph, outputs


def _simplify(graph: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    """Simplify a scan's steps: drop shared inputs that are numbers, and what adds zeros."""
    steps, *others, shared = cast(Any, node.args)
    combine: Any = getattr(graph, steps.target)
    places = combine.graph.find_nodes(op="placeholder")[-len(shared) :]
    kept = []
    for place, value in zip(places, shared, strict=True):
        meta = value.meta["val"] if isinstance(value, torch.fx.Node) else value
        number = int(meta) if isinstance(meta, int) or _is_number(meta) else None
        if number is None:
            kept.append(value)
        else:  # inductor has no place for it
            place.replace_all_uses_with(number)
            combine.graph.erase_node(place)
    node.args = (steps, *others, tuple(kept))
    aten = torch.ops.aten
    for add in combine.graph.find_nodes(op="call_function", target=aten.add.Tensor):
        for one, other in (add.args, add.args[::-1]):
            if _is_zeros(one) and _alike(other, add):  # from states that the update does not read
                add.replace_all_uses_with(other)
                break
    combine.graph.eliminate_dead_code()
    combine.recompile()


def _is_zeros(node: Any) -> bool:
    if not isinstance(node, torch.fx.Node) or node.op != "call_function":
        return False
    name = node.target.overloadpacket.__name__ if hasattr(node.target, "overloadpacket") else ""
    return bool(
        "zeros" in name or (name in ("full", "full_like", "new_full") and node.args[-1] == 0)
    )


def _alike(node: Any, other: torch.fx.Node) -> bool:
    if not isinstance(node, torch.fx.Node):
        return False
    a, b = node.meta["val"], other.meta["val"]
    return tuple(a.shape) == tuple(b.shape) and a.dtype == b.dtype


def _is_number(value: Any) -> bool:
    return isinstance(value, torch.SymInt) and value.node.expr.is_number


def _tanh(x: Tensor) -> Tensor:
    """tanh in single precision to 3 units in the last place; much faster than the library's."""
    if x.dtype != torch.float32:
        return NotImplemented
    z = x * x
    # Near 0, where the other form cancels: the minimax polynomial of (tanh(x)/x − 1)/x².
    p = 0.021010039374232292 - 0.006113144569098949 * z
    p = -0.3333332836627960 + z * (0.13332794606685638 + z * (z * p - 0.05385405942797661))
    return torch.where(x.abs() < 0.625, x + x * (z * p), 1 - 2 / (torch.exp(2 * x) + 1))


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


def _compile(graph: torch.fx.GraphModule, example: list[Tensor], backwards: bool) -> Path:
    """Compile a graph; returns the library."""
    import torch._inductor as inductor
    from torch._inductor import config
    from torch._inductor.codecache import CppWrapperCodeCache

    libraries: list[str] = []
    load = CppWrapperCodeCache.load_pybinding

    def noted(*arguments: Any, main_code: str, **keywords: Any) -> Any:
        entry: Any = load(*arguments, main_code=_lean(main_code), **keywords)
        libraries.append(entry.__self__.__file__)
        return entry

    settings = {
        "cpp_wrapper": True,
        "cpp.dynamic_threads": True,  # as many as there are when it runs
        "cpp.enable_floating_point_contract_flag": "fast",  # a · b + c rounds once
        "post_grad_custom_post_pass": _from_the_end() if backwards else None,
    }
    log = logging.getLogger("torch._inductor.standalone_compile")
    with (
        config.patch(settings),
        mock.patch.object(CppWrapperCodeCache, "load_pybinding", noted),
        mock.patch.object(log, "disabled", True),  # it warns that it cannot save: `cache` does
    ):
        inductor.standalone_compile(graph, [*example], dynamic_shapes="from_graph")
    if len(libraries) != 1:
        raise CompileError(f"the compiler made {len(libraries)} libraries instead of one")
    return Path(libraries[0])


HANDLE = re.compile(  # a new handle of a tensor, for a part of the loop
    r"^ *AtenTensorHandle (while_loop_(?:cond|body)_graph_\w+)_handle;\n"
    r".*aoti_torch_assign_tensors_out\((\w+), &\1_handle\)\);\n"
    r" *RAIIAtenTensorHandle \1\(\1_handle\);\n",
    re.MULTILINE,
)
BUFFER = re.compile(  # a buffer of one step
    r"^ *AtenTensorHandle (while_loop_(?:cond|body)_graph_\w+)_handle;\n"
    r" *AOTI_TORCH_ERROR_CODE_CHECK\(aoti_torch_empty_strided\(\d+, (\w+), (\w+), .*\n"
    r" *RAIIAtenTensorHandle \1\(\1_handle\);\n",
    re.MULTILINE,
)
EXTENTS = r"^ *(?:static )?const(?:expr)? int64_t \*?{}(?:\[\])? ?=.*;\n"


def _lean(code: str) -> str:
    """The C++ code without what its loop makes anew at each step and does not need to.

    The loop's condition reads the index alone; what is the same at every step can be read where
    it is; and a buffer that no step hands to the next can serve all. Together they are half of
    what a small step costs.
    """
    code = _without_handles(code)
    start = re.search(r"^ *while \(1\) {\n", code, re.MULTILINE)
    if start is None:
        return code
    before, loop = code[: start.start()], code[start.start() :]
    for found in list(BUFFER.finditer(loop)):
        name, *extents = found.groups()
        if re.search(rf"(std::move|wrapper|assign_tensors_out)\({name}\b", loop):
            continue  # it, or a view of it, may be what the next step reads
        for extent in dict.fromkeys(extents):
            declared = re.search(EXTENTS.format(extent), loop, re.MULTILINE)
            if declared:
                loop = loop.replace(declared.group(), "", 1)
                before += declared.group()
        before += found.group()
        loop = loop.replace(found.group(), "", 1)
        loop = re.sub(rf"\b{name}\.reset\(\);", "", loop)
    return before + loop


def _without_handles(code: str) -> str:
    for found in list(HANDLE.finditer(code)):
        name, source = found.groups()
        reset = f"{name}.reset();\n"
        uses = code.replace(found.group(), "").replace(reset, "")
        if name not in re.findall(r"\w+", uses):
            code = uses
        elif re.fullmatch(r"arg\d+_1", source) and f"std::move({name})" not in uses:
            code = re.sub(rf"\b{name}\b", source, uses)
    return code


def _load(library: Path) -> Callable[[Any], Any]:
    """A library's entry, as inductor itself loads it."""
    guards: Any = torch._C._dynamo.guards
    pointer = guards._torchinductor_pyobject_tensor_data_ptr
    os.environ["_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"] = str(pointer)
    try:
        spec = importlib.util.spec_from_file_location("x.inductor_entry_cpp", library)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        raise CompileError(f"{library} cannot be loaded: {error}") from None
    return module.inductor_entry_cpp


def _from_the_end() -> Any:
    """The compiler's pass that lets every scan begin with the last step.

    Scans become loops over an index: it starts at the last step, goes down, and ends below 0.
    """
    from torch._inductor.custom_graph_pass import CustomGraphPass
    from torch._inductor.fx_passes.post_grad import decompose_scan_to_while_loop

    aten, high = torch.ops.aten, torch.ops.higher_order

    def turn(module: Any, node: Any, sequence: Any) -> None:
        condition, body, carried, _ = node.args
        with module.graph.inserting_before(node):
            length = module.graph.call_function(aten.sym_size.int, (sequence, 0))
            length.meta["val"] = sequence.meta["val"].shape[0]
            last = module.graph.call_function(operator.sub, (length, 1))
            last.meta["val"] = length.meta["val"] - 1
            start = module.graph.call_function(
                aten.full.default, ([], last), {"dtype": torch.int64, "device": torch.device("cpu")}
            )
            start.meta["val"] = carried[0].meta["val"]
        node.update_arg(2, (start, *carried[1:]))
        (test,) = getattr(module, condition.target).graph.find_nodes(
            op="call_function", target=aten.lt.Scalar
        )
        test.target, test.args = aten.ge.Scalar, (test.args[0], 0)
        index = next(iter(getattr(module, body.target).graph.nodes))
        (step,) = (user for user in index.users if user.target is aten.add.Tensor)
        step.args = (index, -1)
        for part in (condition, body):
            getattr(module, part.target).graph.eliminate_dead_code()
            getattr(module, part.target).recompile()

    class FromTheEnd(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            module: Any = graph.owning_module
            scans = graph.find_nodes(op="call_function", target=high.scan)
            sequences = [node.args[2][0] for node in scans]
            decompose_scan_to_while_loop(module)
            loops = graph.find_nodes(op="call_function", target=high.while_loop)
            for node, sequence in zip(loops, sequences, strict=True):
                turn(module, node, sequence)

        def uuid(self) -> str:
            return "from the end"

    return FromTheEnd()


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
    """The code that makes programs of an update, as a hash."""
    here, cells = Path(__file__).parent, Path(base.__file__).parent
    files = [here / "programs.py", here / "steps.py"]
    files += [cells / f"{name}.py" for name in ("base", "layout", "preactivations")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


_programs: dict[Any, Programs] = {}


def programs_of(cell: GatedCell, projected: tuple[str, ...]) -> Programs:
    """The compiled programs of a prepared cell.

    Raises:
        CompileError: its update cannot be run without values.
    """
    options = tuple(map(repr, cell.options.items()))
    like = cell._like
    products = torch.is_autocast_enabled(like.device.type)
    key = (type(cell), cell.hidden_size, cell.bias, options, cell.training, like.dtype, products,
           projected)  # fmt: skip
    if key not in _programs:
        _programs[key] = Programs(Steps(cell, projected))
    return _programs[key]
