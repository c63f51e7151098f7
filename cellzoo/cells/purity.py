"""A cell's update must be a pure function: checked once, at its first use.

An engine may run an update compiled, in chunks, or again for the backward pass. So it must not
write to `self`, write in place, draw random numbers, or let Python see a tensor's values; and its
products go through `self.product`, so that engines see them. What is not detected: writes into
objects that `self` refers to (`self.log.append(…)`), and globals other than tensors.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import random
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cellzoo.cells.preactivations import Part, PreActivations, states_type
from cellzoo.names.registry import nearest

if TYPE_CHECKING:
    from cellzoo.cells.base import GatedCell

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "addmv", "mv", "dot", "convolution"}
READS_VALUES = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "item"}
BATCH = 3

_checked: set[Any] = set()


class ImpureUpdateError(RuntimeError):  # Python would swallow a TypeError raised within `a @ b`
    """A cell's update does what an engine cannot repeat; the message names the line."""


def check(cell: GatedCell) -> None:
    """Check a cell's update, once for each class and choice of options.

    Raises:
        ImpureUpdateError: it is not pure.
        TypeError: it does not return the states that it declares, or has no use for a gate.
    """
    key = (type(cell), cell.bias, tuple(map(repr, cell.options.items())))
    if key not in _checked:
        unused = [_run_once(cell, training) for training in (True, False)]
        for complaint in unused[0]:
            if complaint in unused[1]:
                raise TypeError(complaint)
        _checked.add(key)


def _run_once(cell: GatedCell, training: bool) -> list[str]:
    """Run an update once; returns what it left unused."""

    # On the meta device there are no values: whatever needs one fails, and it costs nothing.
    def meta(tensors: Any) -> dict[str, Tensor | None]:
        return {
            name: None if tensor is None else torch.empty_like(tensor, device="meta")
            for name, tensor in tensors.items()
        }

    # A check must not move batch statistics, nor the generators that seeds have set.
    buffers = {name: None if b is None else b.clone() for name, b in cell._buffers.items()}
    cell = cell.bind(cell._parameters, buffers)
    cell.__dict__["_modules"] = copy.deepcopy(cell._modules)
    cell.train(training)
    shadow = cell.bind(meta(cell._parameters), meta(buffers))
    like = cell._like
    with torch.no_grad(), torch.random.fork_rng([like.device] if like.is_cuda else []):
        states = tuple(s.to("meta") for s in cell.initial_state(BATCH))
        # The projection runs on real numbers: it may read values, update only may not.
        x = torch.zeros(BATCH, cell.input_size, dtype=like.dtype, device=like.device)
        given = {k: v.to("meta") for k, v in cell.project_sequence(x, None).items()}
        generators = _generators()
        guarded = _guard(shadow).prepare()
        try:
            with _Watch(cell):
                a = _Readings(guarded.pre_activations(given, states))
                kind = states_type(tuple(cell.layout.states))
                step = guarded.normalise(guarded.update(cast(PreActivations, a), kind(*states)))
        except ImpureUpdateError:
            raise
        except AttributeError as error:
            names = [*cell._parameters, *cell.options, *cell._buffers]
            unknown = getattr(error, "name", None)
            hint = f": {nearest(unknown, names)}" if error.obj is guarded and unknown else ""
            raise AttributeError(f"{cell.name}.update{_line(cell, error)}: {error}{hint}") from None
        except Exception as error:
            if "meta" not in str(error).lower():
                raise
            raise ImpureUpdateError(
                f"{cell.name}.update lets Python see a tensor's values{_line(cell, error)}: "
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
                f"{cell.name}.update gives state {name!r} as {tuple(new.shape)} {new.dtype} for a "
                f"batch of {BATCH}; declared is {tuple(old.shape)} {old.dtype}"
            )
    if step.output.shape != (BATCH, cell.output_size) or step.output.dtype != like.dtype:
        raise TypeError(
            f"{cell.name}.update gives an output of {tuple(step.output.shape)} "
            f"{step.output.dtype} for a batch of {BATCH}; output_size and the parameters say "
            f"{(BATCH, cell.output_size)} {like.dtype}"
        )
    return _unused(cell, a, set(itertools.chain(*guarded._late)))


class _Readings:
    """Pre-activations that remember which gates an update has read, by their parts."""

    def __init__(self, a: PreActivations) -> None:
        self._a = a
        self.x, self.h = _PartReadings(a.x), _PartReadings(a.h)

    def __getattr__(self, gate: str) -> Tensor:
        value = getattr(self._a, gate)
        self.x.seen.add(gate)
        self.h.seen.add(gate)
        return value


class _PartReadings:
    """One side of them."""

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


def _unused(cell: GatedCell, a: _Readings, multiplied: set[str]) -> list[str]:
    """Gates whose weights an update never uses, so that they would get no gradient."""
    complaints = []
    layout = cell.layout
    late = layout.h_rows.keys() - layout.h_sizes.keys()
    for unread, part, instead in (
        (layout.x_sizes.keys() - a.x.seen, "x", 'read a.{0}, or declare Gate(x="none")'),
        (layout.h_sizes.keys() - a.h.seen, "the state", 'read a.{0}, or Gate(state="none")'),
        (late - multiplied, "its late product", 'self.product("{0}", …) makes it'),
    ):
        complaints += [
            f"{cell.name}.update never uses what gate {gate!r} has from {part}: "
            f"{instead.format(gate)}"
            for gate in unread
        ]
    return complaints


class _Watch(TorchDispatchMode):
    """Sees every operation of an update and refuses the impure ones."""

    def __init__(self, cell: GatedCell) -> None:
        super().__init__()
        self.cell = cell
        self.constants: list[Tensor] = []  # made by the update itself

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.refuse(name, "draws random numbers; draw them in project, before the loop")
        if name in READS_VALUES or torch.Tag.data_dependent_output in func.tags:
            self.refuse(name, "lets Python see a tensor's values; use torch.where")
        if func._schema.is_mutable:
            self.refuse(name, "writes in place; make a new tensor")
        if name in PRODUCTS and not _inside_base():
            self.refuse(name, "makes a product that engines do not see; use self.product")
        if name != "lift_fresh" and any(map(self.is_foreign, tree_leaves((args, kwargs)))):
            self.refuse(name, "uses a tensor that is no parameter of the cell")
        result = func(*args, **(kwargs or {}))
        self.constants += [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        return result

    def is_foreign(self, value: Any) -> bool:
        if not isinstance(value, Tensor) or value.is_meta:
            return False
        return not any(value is constant for constant in self.constants)

    def refuse(self, operation: str, what: str) -> None:
        where = _line_of_frame(self.cell, sys._getframe())
        raise ImpureUpdateError(f"{self.cell.name}.update {what} ({operation}{where})")


def _guard(shadow: GatedCell) -> GatedCell:
    """The cell with a class that refuses attribute writes."""

    def refuse(self: Any, name: str, value: Any = None) -> None:
        where = _line_of_frame(shadow, sys._getframe())
        raise ImpureUpdateError(
            f"{shadow.name}.update writes self.{name}{where}; make it a state instead"
        )

    cls = type(shadow)
    shadow.__class__ = type(
        cls.__name__,
        (cls,),
        {"__setattr__": refuse, "__delattr__": refuse, "registered_name": shadow.name},
    )
    return shadow


def _inside_base() -> bool:
    """Whether the operation comes from the base class's own products."""
    frame: FrameType | None = sys._getframe(2)
    base = sys.modules["cellzoo.cells.base"].__file__
    while frame is not None:
        if frame.f_code.co_filename == base:
            return frame.f_code.co_name in ("product", "pre_activations")
        if frame.f_code.co_name == "update":
            return False
        frame = frame.f_back
    return False


def _line_of_frame(cell: GatedCell, frame: FrameType | None) -> str:
    """ ", file:line" of the author's code that is running."""
    source = inspect.getfile(type(cell).update)
    while frame is not None:
        if frame.f_code.co_filename == source:
            return f", {source}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _line(cell: GatedCell, error: BaseException) -> str:
    trace, line = error.__traceback__, ""
    source = inspect.getfile(type(cell).update)
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == source:
            line = f", {source}:{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _generators() -> tuple[Any, ...]:
    state = np.random.get_state(legacy=False)  # noqa: NPY002  (the one that authors may use)
    return random.getstate(), repr(state)
