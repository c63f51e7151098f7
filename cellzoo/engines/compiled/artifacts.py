"""Compiled chunks: traced with symbolic sizes, compiled once for a machine, kept in a cache."""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cellzoo.cells.base import GatedCell
from cellzoo.engines.compiled.chunk import Chunk
from cellzoo.engines.errors import CompileError

COMPILE = True  # tests also run the chunks as they are


class Programs:
    """The compiled forward and backward of a chunk, for any sizes.

    Args:
        chunk: the functions.
    """

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self._programs: dict[str, list[_Program]] = {"forward": [], "backward": []}
        self._by_shape: dict[Any, _Program] = {}

    def forward(self, projected: Any, states: Any, *weights: Any) -> Any:
        """`Chunk.forward`, compiled."""
        return self._call("forward", "sequence state weight weight weight",
                          [projected, states, *weights])  # fmt: skip

    def backward(self, *groups: Any) -> Any:
        """`Chunk.backward`, compiled."""
        kinds = "sequence sequence state sequence sequence state weight weight weight"
        return self._call("backward", kinds, list(groups))

    def _call(self, name: str, kinds: str, groups: list[Any]) -> Any:
        function = getattr(self.chunk, name)
        flat, structure = pytree.tree_flatten(groups)
        if not COMPILE or not flat[0].numel():
            return function(*groups)
        shapes = (name, *(tensor.shape for tensor in flat))
        program = self._by_shape.get(shapes)
        if program is None:
            fitting = (p for p in self._programs[name] if p.fits([t.shape for t in flat]))
            program = next(fitting, None)
            if program is None:
                example = _with_own_batch(groups, kinds.split())
                program = _Program(function, pytree.tree_leaves(example), structure)
                self._programs[name].append(program)
            self._by_shape[shapes] = program
        return program(flat)


class _Program:
    """One function, traced and compiled for symbolic sizes."""

    def __init__(self, function: Callable[..., Any], flat: list[Tensor], structure: Any) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx  # heavy, and seldom needed

        shape_of: list[Any] = []

        def traced(*tensors: Tensor) -> list[Tensor]:
            out, spec = pytree.tree_flatten(function(*pytree.tree_unflatten(tensors, structure)))
            shape_of[:] = [spec]
            return out

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own, about itself
            try:
                graph = make_fx(traced, tracing_mode="symbolic")(*flat)
                self._artifact = _compile(graph, flat)
            except CompileError:
                raise
            except Exception as error:
                reason = (str(error).strip().splitlines() or [""])[0]
                raise CompileError(f"{type(error).__name__}: {reason}") from error
        self._structure = shape_of[0]
        placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
        shapes = [tuple(node.meta["val"].shape) for node in placeholders]
        symbolic = [e for shape in shapes for e in shape if isinstance(e, torch.SymInt)]
        sizes: Any = symbolic[0].node.shape_env if symbolic else None
        # What tracing found to be a constant, or to equal another extent, is replaced by it.
        self._shapes = [
            [sizes.replace(e.node.expr) if isinstance(e, torch.SymInt) else e for e in shape]
            for shape in shapes
        ]
        self._guards = [sizes.replace(guard.expr) for guard in sizes.guards] if sizes else []

    def fits(self, shapes: Sequence[torch.Size]) -> bool:
        """Whether inputs of these shapes are among those that it was traced for."""
        known: dict[Any, int] = {}
        others: list[tuple[Any, Any]] = [(guard, True) for guard in self._guards]
        for traced, actual in zip(self._shapes, shapes, strict=True):
            for want, got in zip(traced, actual, strict=True):
                if getattr(want, "is_Symbol", False):
                    if known.setdefault(want, got) != got:
                        return False
                else:
                    others.append((want, got))
        return all(
            (want.subs(known) if hasattr(want, "subs") else want) == got for want, got in others
        )

    def __call__(self, flat: list[Tensor]) -> Any:
        return pytree.tree_unflatten(list(self._artifact(*flat)), self._structure)


def _with_own_batch(groups: list[Any], kinds: list[str]) -> list[Any]:
    """Inputs of the same sizes, but for a batch size that no other extent has.

    Extents that are equal when traced are taken for one and the same.
    """
    taken = {extent for tensor in pytree.tree_leaves(groups) for extent in tensor.shape}
    batch = next(size for size in range(5, 10_000) if size not in taken)

    def like(tensor: Tensor, kind: str) -> Tensor:
        shape = list(tensor.shape)
        if kind != "weight":
            shape[1 if kind == "sequence" else 0] = batch
        return tensor.new_zeros(shape)

    return [
        pytree.tree_map(lambda tensor, kind=kind: like(tensor, kind), group)
        for group, kind in zip(groups, kinds, strict=True)
    ]


def _compile(graph: torch.fx.GraphModule, flat: list[Tensor]) -> Callable[..., Any]:
    """Compile a traced graph, or load what was compiled before."""
    from torch._inductor import CompiledArtifact, standalone_compile

    path = cache_folder() / f"{_key(graph, flat)}.bin"
    if path.exists():
        try:
            return CompiledArtifact.load(path=str(path), format="binary")
        except Exception:  # a torn or foreign file: compile anew, and write over it
            path.unlink(missing_ok=True)
    artifact = standalone_compile(graph, list(flat), dynamic_shapes="from_graph")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / "artifact.bin"
        artifact.save(path=str(temporary), format="binary")
        os.replace(temporary, path)
    return artifact


def _key(graph: torch.fx.GraphModule, flat: list[Tensor]) -> str:
    """What an artifact depends on: the traced graph, the inputs' types, torch and the CPU."""
    text = [
        graph.code,
        *(f"{n.name} {n.meta['val'].shape}" for n in graph.graph.nodes if "val" in n.meta
          and isinstance(n.meta["val"], Tensor)),
        *(f"{tensor.dtype} {tensor.device.type} {tensor.dim()}" for tensor in flat),
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        platform.machine(),
        platform.python_version(),
    ]  # fmt: skip
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:32]


def cache_folder() -> Path:
    """The user's own folder of compiled chunks: loading one runs code, so nobody else may write.

    Raises:
        CompileError: it belongs to another user, or others may write to it.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "cellzoo" / "compiled"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CompileError(f"{folder} must be yours alone to write: chmod 700 it, or remove it")
    return folder


_programs: dict[Any, Programs] = {}


def programs(cell: GatedCell, projected: tuple[str, ...]) -> Programs:
    """The compiled programs of a prepared cell, the same for every size.

    Raises:
        CompileError: its update cannot be run without values.
    """
    options = tuple(map(repr, cell.options.items()))
    key = (type(cell), cell.bias, options, cell.training, cell._like.dtype, projected)
    if key not in _programs:
        _programs[key] = Programs(Chunk(cell, projected))
    return _programs[key]
