"""The check that a cell's update is a pure function, at its first use.

An engine may run an update compiled, in chunks, or again for the backward pass. So it must not
write to `self`, write in place, draw random numbers, or let Python depend on a tensor's values.
Its products must go through `self.product`, where engines see them. Two things are not detected:
writes into objects that `self` refers to (`self.log.append(…)`), and globals other than tensors.
"""

import copy
import inspect
import itertools
import random
import sys
from collections.abc import Iterable
from traceback import walk_stack, walk_tb
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cellzoo.cells.preactivations import Part, PreActivations, states_type
from cellzoo.cells.prepared import PreparedCell, run_update
from cellzoo.cells.protocol import Cell
from cellzoo.names.registry import nearest

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "addmv", "mv", "dot", "convolution"}
READS_VALUES = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "item"}
BATCH = 3

_checked: set[Any] = set()


class ImpureUpdateError(RuntimeError):  # Python would swallow a TypeError raised within `a @ b`
    """A cell's update does something that an engine cannot repeat; the message names the line."""


def check(cell: Cell) -> None:
    """Check a cell's update, once for each class and choice of options.

    Raises:
        ImpureUpdateError: the update is not pure.
        TypeError: the update does not return the declared states, or never uses a gate.
    """
    key = (type(cell), cell.bias, tuple(map(repr, cell.options.items())))
    if key not in _checked:
        unused = [_run_once(cell, training) for training in (True, False)]
        for complaint in unused[0]:
            if complaint in unused[1]:
                raise TypeError(complaint)
        _checked.add(key)


def _run_once(cell: Cell, training: bool) -> list[str]:
    """Run an update once and return a complaint for each unused gate."""

    # On the meta device there are no values: code that needs one fails, and nothing is computed.
    def meta(tensors: Any) -> dict[str, Tensor | None]:
        return {
            name: None if tensor is None else torch.empty_like(tensor, device="meta")
            for name, tensor in tensors.items()
        }

    # A check must not change batch statistics or the state of random generators.
    buffers = {name: None if b is None else b.clone() for name, b in cell._buffers.items()}
    cell = cell.bind(cell._parameters, buffers, _modules=copy.deepcopy(cell._modules))
    cell.train(training)
    shadow = _guard(cell.bind(meta(cell._parameters), meta(buffers)))
    watch = _Watch(cell)

    def product(gate: Any, v: Tensor) -> Any:
        watch.in_product = True
        try:
            return prepared.products(gate, v)
        finally:
            watch.in_product = False

    like = cell._like
    with torch.no_grad(), torch.random.fork_rng([like.device] if like.is_cuda else []):
        states = tuple(s.to("meta") for s in cell.initial_state(BATCH))
        # The projection runs on real numbers: unlike `update`, it may read values.
        x = torch.zeros(BATCH, cell.input_size, dtype=like.dtype, device=like.device)
        projected = {k: v.to("meta") for k, v in cell.project_sequence(x, None).items()}
        generators = _generators()
        prepared = PreparedCell(shadow, product)
        try:
            a = _Readings(prepared.pre_activations(projected, states))
            with watch:
                step = run_update(prepared.cell, a, states_type(tuple(cell.layout.states))(*states))
        except ImpureUpdateError:
            raise
        except AttributeError as error:
            names = [*cell._parameters, *cell.options, *cell._buffers]
            unknown = getattr(error, "name", None)
            hint = f": {nearest(unknown, names)}" if error.obj is prepared.cell and unknown else ""
            raise AttributeError(
                f"{cell.name}.update{_error_line(cell, error)}: {error}{hint}"
            ) from None
        except Exception as error:
            if "meta" not in str(error).lower():
                raise
            raise ImpureUpdateError(
                f"{cell.name}.update reads a tensor's values in Python{_error_line(cell, error)}: "
                f"{_first_line(error)}"
            ) from error
        if generators != _generators():
            raise ImpureUpdateError(
                f"{cell.name}.update draws random numbers (Python's or NumPy's generator); draw "
                f"them in project, before the loop"
            )
    for name, old, new in zip(cell.layout.states, states, step.states, strict=True):
        if new.shape != old.shape or new.dtype != old.dtype:
            raise TypeError(
                f"{cell.name}.update returns state {name!r} as {tuple(new.shape)} {new.dtype} for "
                f"a batch of {BATCH}; the declared one is {tuple(old.shape)} {old.dtype}"
            )
    if step.output.shape != (BATCH, cell.output_size) or step.output.dtype != like.dtype:
        raise TypeError(
            f"{cell.name}.update returns an output of {tuple(step.output.shape)} "
            f"{step.output.dtype} for a batch of {BATCH}; output_size and the parameters "
            f"require {(BATCH, cell.output_size)} {like.dtype}"
        )
    return _unused(cell, a, set(itertools.chain(*prepared.products.late)))


class _Readings:
    """Pre-activations that record the gates that an update reads, by part."""

    def __init__(self, a: PreActivations) -> None:
        self._a = a
        self.x, self.h = _PartReadings(a.x), _PartReadings(a.h)

    def __getattr__(self, gate: str) -> Tensor:
        value = getattr(self._a, gate)
        self.x.seen.add(gate)
        self.h.seen.add(gate)
        return value


class _PartReadings:
    """One part of recorded pre-activations."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self.seen: set[str] = set()

    @property
    def all(self) -> Tensor:
        self.seen.update(self._part._sizes)
        return self._part.all

    def __getattr__(self, name: str) -> Tensor:
        value = getattr(self._part, name)
        self.seen.add(name)
        return value


def _unused(cell: Cell, a: _Readings, multiplied: set[str]) -> list[str]:
    """Return a complaint for each gate with weights that get no gradient."""
    complaints = []
    layout = cell.layout
    late = layout.h_rows.keys() - layout.h_sizes.keys()
    for unread, part, instead in (
        (layout.x_sizes.keys() - a.x.seen, "x", 'read a.{0}, or declare Gate(x="none")'),
        (layout.h_sizes.keys() - a.h.seen, "the state", 'read a.{0}, or Gate(state="none")'),
        (late - multiplied, "its late product", 'self.product("{0}", …) makes it'),
    ):
        complaints += [
            f"{cell.name}.update never uses the part that gate {gate!r} has from {part}: "
            f"{instead.format(gate)}"
            for gate in unread
        ]
    return complaints


class _Watch(TorchDispatchMode):
    """A watch over every operation of an update, which refuses the impure ones.

    Attributes:
        in_product: whether `self.product` is running.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self.in_product = False
        self.constants: list[Tensor] = []  # made by the update itself

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.refuse(name, "draws random numbers; draw them in project, before the loop")
        if name in READS_VALUES or torch.Tag.data_dependent_output in func.tags:
            self.refuse(name, "reads a tensor's values in Python; use torch.where")
        if func._schema.is_mutable:
            self.refuse(name, "writes in place; make a new tensor")
        if name in PRODUCTS and not self.in_product:
            self.refuse(name, "makes a product that engines do not see; use self.product")
        if name != "lift_fresh" and any(map(self.is_foreign, tree_leaves((args, kwargs)))):
            self.refuse(
                name, "uses a tensor that is no parameter of the cell; declare it as an extra"
            )
        result = func(*args, **(kwargs or {}))
        self.constants += [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        return result

    def is_foreign(self, value: Any) -> bool:
        if not isinstance(value, Tensor) or value.is_meta:
            return False
        return not any(value is constant for constant in self.constants)

    def refuse(self, operation: str, reason: str) -> None:
        line = _running_line(self.cell)
        raise ImpureUpdateError(f"{self.cell.name}.update {reason} ({operation}{line})")


def _guard(shadow: Cell) -> Cell:
    """Give the cell a class that refuses attribute writes."""

    def refuse(self: Any, name: str, value: Any = None) -> None:
        line = _running_line(shadow)
        raise ImpureUpdateError(
            f"{shadow.name}.update writes self.{name}{line}; make it a state instead"
        )

    cls = type(shadow)
    shadow.__class__ = type(
        cls.__name__,
        (cls,),
        {"__setattr__": refuse, "__delattr__": refuse, "registered_name": shadow.name},
    )
    return shadow


def _line(cell: Cell, frames: Iterable[tuple[FrameType, int]]) -> str:
    """Return ", file:line" of the author's code in these frames, the last of which is innermost."""
    source = inspect.getfile(type(cell).update)
    lines = [line for frame, line in frames if frame.f_code.co_filename == source]
    return f", {source}:{lines[-1]}" if lines else ""


def _error_line(cell: Cell, error: BaseException) -> str:
    """Return ", file:line" of the author's code that raised an error."""
    return _line(cell, walk_tb(error.__traceback__))


def _running_line(cell: Cell) -> str:
    """Return ", file:line" of the author's code that is running."""
    return _line(cell, reversed([*walk_stack(sys._getframe())]))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _generators() -> tuple[Any, ...]:
    state = np.random.get_state(legacy=False)  # noqa: NPY002  (the one that authors may use)
    return random.getstate(), repr(state)
