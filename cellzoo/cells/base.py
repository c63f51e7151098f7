"""The base class of every cell: it owns the fused projections and the split into named gates.

An author writes gates, states and `update`; what else a published cell may need is declared
(declare.py). Shapes, with B the batch, I the input size, H the hidden size, G the gates' number:

    x_t (B, I) · states (B, H) · weight_ih (G·H, I) · weight_hh (G·H, H) · bias_ih, bias_hh (G·H)

The rows of weights and biases are the gates' in the order in which they are declared.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellzoo.cells import purity
from cellzoo.cells.declare import State
from cellzoo.cells.layout import Block, Layout, gather
from cellzoo.cells.preactivations import Part, PreActivations, states_type
from cellzoo.names.options import resolve
from cellzoo.names.registry import nearest


class GateWeights(NamedTuple):
    """One gate's blocks of the fused parameters, as views; None where the gate has none."""

    weight_ih: Tensor | None
    weight_hh: Tensor | None
    bias_ih: Tensor | None
    bias_hh: Tensor | None


class Step(NamedTuple):
    """What one step gives: the new states in declared order, and the output."""

    states: tuple[Tensor, ...]
    output: Tensor


class GatedCell(nn.Module):
    """A recurrent cell: named gates, named states and an update.

    Args:
        input_size: I, the width of x.
        hidden_size: H, the width of a gate and of a state that declares no other.
        bias: whether the fused biases exist.
        device, dtype: of the parameters.
        options: the cell's own, see `option`.

    A cell declares, as class attributes or as properties that read its options:

        gates      names, or names to `Gate`, in the order of the rows of the fused weights
        states     names, or names to `State`; the first is the output unless `update` says other
        extra      further parameters by name, `Extra`
        keep       the gate that keeps the memory: +1 if a large value keeps, −1 if it overwrites
        write      likewise the gate that lets new content in, where it is one of its own
        biases     which fused biases there are: ("ih", "hh") unless the paper has one
        derived    recurrent weights that `recurrent_weights` makes, so that none is owned
        elapsed_time   whether steps take the time since the last one, as `a.x.dt` (B, 1)
        paper_init the initialisation that the paper prescribes, which `init="paper"` takes: a
                   mapping as `Init.of` takes
        linear     whether each state enters linearly, by `linear.recur`, so that `scan` may run it
        bounded    whether its states stay finite over thousands of steps of large inputs
        reference  what the reference that it is tested against was written from: "paper",
                   "author's code", "secondary source" or "memory"; "" where there is none
        engines    the engines that may run it (None: any), `engines_reason` saying why

    Raises:
        ValueError, TypeError: a size is not a positive whole number, or an option is unknown or
            not among its choices.
    """

    gates: ClassVar[Any] = ()
    states: ClassVar[Any] = ("h",)
    extra: ClassVar[Any] = {}
    keep: ClassVar[Any] = {}
    write: ClassVar[Any] = {}
    biases: ClassVar[tuple[str, ...]] = ("ih", "hh")
    derived: ClassVar[tuple[str, ...]] = ()
    elapsed_time: ClassVar[bool] = False
    paper_init: ClassVar[Any] = {}
    linear: ClassVar[bool] = False
    bounded: ClassVar[bool] = True
    engines: ClassVar[tuple[str, ...] | None] = None
    engines_reason: ClassVar[str] = ""
    native: ClassVar[str | None] = None
    paper: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    registered_name: ClassVar[str] = ""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.input_size = positive("input_size", input_size)
        self.hidden_size = positive("hidden_size", hidden_size)
        self.bias = bool(bias)
        self.options = resolve(type(self), self.name, options)
        for name, value in self.options.items():
            if hasattr(GatedCell, name):
                raise TypeError(f"{self.name}: an option cannot be called {name!r}")
            setattr(self, name, value)
        self.layout = Layout.of(self)
        self._make_parameters(device, dtype)

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        declared = vars(GatedCell).items()
        known = [name for name, value in declared if isinstance(value, tuple | dict)]
        for name, value in vars(cls).items():
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            if close and name not in known and isinstance(value, tuple | list | dict):
                raise TypeError(f"{cls.__name__} declares {name!r}: did you mean {close[0]!r}?")

    if TYPE_CHECKING:  # declared parameters and options are read as attributes

        def __getattr__(self, name: str) -> Any: ...

    # -- what an author writes ---------------------------------------------------------------

    def update(self, a: PreActivations, s: Any) -> Any:
        """One step: pre-activations and states to new states. Pure; see `engines.purity`.

        Returns the new states in declared order (one tensor where there is one), or
        `(states, output)` with states a tuple where the output is not the first state.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def project(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """All that ignores the state, for a whole sequence in one product.

        x is (…, I), time first; packed input comes as (rows, I). Returns the fused projection
        (…, G·H), or a dict of it under "all" and of further tensors of the same leading shape,
        which `update` sees as `a.x.<name>`. Random masks are drawn here; buffers are read here.
        """
        return self.project_gates(x)

    def recurrent_weights(self) -> dict[str, Tensor]:
        """The recurrent weights by parameter name, made once a sequence.

        Override it for a block that is a transform of a parameter: antisymmetric, masked, low
        rank (then name the weight in `derived`).
        """
        return {
            name: getattr(self, name) for name in self.layout.blocks if name not in self.derived
        }

    @property
    def output_size(self) -> int:
        """The output's width."""
        return self.hidden_size

    # -- for authors to call -----------------------------------------------------------------

    def product(self, gate: str | tuple[str, ...], v: Tensor) -> Any:
        """A product within the step: the block of a late gate (bias_hh included), or the matrix
        `Extra` of that name, applied to v. Several late gates of one operand make one product.
        """
        if isinstance(gate, str) and gate in self._matrices:
            matrix = getattr(self, gate)
            return functional.linear(v, matrix).to(matrix.dtype)
        names = (gate,) if isinstance(gate, str) else tuple(gate)
        if names not in self._late:
            self._late[names] = self._gather(names, late=True)
        block, weight, bias = self._late[names]
        fused = block.product(v, weight, bias, len(names)).to(weight.dtype)
        if isinstance(gate, str):
            return fused
        return fused.split([block.rows[name] for name in names], -1)

    def project_gates(self, x: Tensor, **functions: Callable[[Tensor], Tensor]) -> Tensor:
        """The fused input projection, (…, I) to (…, G·H).

        `functions` act on gates by name: `n=torch.tanh` makes `a.x.n` of tanh(W_n x + b_n).
        """
        if self.weight_ih is None:
            return x.new_empty(*x.shape[:-1], 0)
        fused = functional.linear(x, self.weight_ih, self.bias_ih).to(self.weight_ih.dtype)
        if not functions:
            return fused
        sizes = self.layout.x_sizes
        parts = dict(zip(sizes, fused.split(list(sizes.values()), -1), strict=True))
        parts |= {name: function(parts[name]) for name, function in functions.items()}
        return torch.cat(list(parts.values()), -1)

    def split(self, fused: Tensor) -> tuple[Tensor, ...]:
        """A fused tensor (…, G·H) by gate, in declared order."""
        return fused.split([self.width(gate.width) for gate in self.layout.gates.values()], -1)

    # -- for users ---------------------------------------------------------------------------

    def gate_weights(self) -> dict[str, GateWeights]:
        """Each gate's W, U and biases by name, as views of the fused parameters."""

        def view(parameter: str, rows: slice | None) -> Tensor | None:
            tensor = getattr(self, parameter, None)
            return None if tensor is None or rows is None else tensor[rows]

        return {
            gate: GateWeights(
                view("weight_ih", self.layout.x_rows.get(gate)),
                view(*self.layout.h_rows.get(gate, ("weight_hh", None))),
                view("bias_ih", self.layout.x_rows.get(gate)),
                view("bias_hh", self.layout.bias_rows.get(gate)),
            )
            for gate in self.layout.gates
        }

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """Each state's initial value, (batch, width), in declared order."""
        like = self._like
        return tuple(
            torch.full(
                (batch, self.width(state.width)),
                state.initial,
                dtype=_state_dtype(state, like.dtype),
                device=like.device,
            )
            for state in self.layout.states.values()
        )

    def step(self, x_t: Tensor, state: Any = None, dt: Tensor | None = None) -> tuple[Tensor, Any]:
        """One step by itself.

        Args:
            x_t: (B, I).
            state: (B, H), or a tuple of such for more states; None: the initial state.
            dt: the elapsed time (B,), for cells that take it; None: 1.

        Returns:
            The output (B, H) and the new state, in the form in which it came.
        """
        purity.check(self)
        if not isinstance(x_t, Tensor):
            raise TypeError(f"x_t must be a tensor, not {type(x_t).__name__}")
        if x_t.dim() != 2 or x_t.shape[-1] != self.input_size:
            raise ValueError(f"x_t must be (batch, {self.input_size}), not {tuple(x_t.shape)}")
        self.check_dtype(x_t)
        states = self.initial_state(len(x_t))
        if state is not None:
            states = self.as_states(state, states)
        prepared = self.prepare()
        result = prepared.advance(prepared.project_sequence(x_t, dt), states)
        return result.output, self.as_given(result.states)

    forward = step

    def as_states(
        self, state: Any, expected: Sequence[Tensor], shape: str = "(batch, width)"
    ) -> tuple[Tensor, ...]:
        """A state as users give it (a tensor, or a tuple of several) as a tuple.

        Raises:
            TypeError, ValueError: its number, shapes or dtypes are not the expected ones.
        """
        names = ", ".join(self.layout.states)
        if not isinstance(state, Tensor | tuple | list):
            raise TypeError(f"expected the states ({names}), got {type(state).__name__}")
        states = (state,) if isinstance(state, Tensor) else tuple(state)
        if len(states) != len(expected):
            raise ValueError(f"expected the states ({names}), got {len(states)} tensors")
        for name, want, got in zip(self.layout.states, expected, states, strict=True):
            if not isinstance(got, Tensor):
                raise TypeError(f"state {name} must be a tensor, not {type(got).__name__}")
            if (got.shape, got.dtype) != (want.shape, want.dtype):
                raise ValueError(
                    f"state {name} must be {shape} = {tuple(want.shape)} {want.dtype}, "
                    f"not {tuple(got.shape)} {got.dtype}"
                )
        return states

    def check_dtype(self, x: Tensor) -> None:
        """Refuse an x of another dtype than the parameters', unless autocast sees to it."""
        if x.dtype != self._like.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"x must be {self._like.dtype} like the parameters, not {x.dtype}")

    def as_given(self, states: tuple[Tensor, ...]) -> Any:
        """A tuple of states as users get it: one tensor where there is one state."""
        return states[0] if len(states) == 1 else states

    # -- for engines -------------------------------------------------------------------------

    def bind(
        self,
        parameters: Mapping[str, Tensor | None],
        buffers: Mapping[str, Tensor | None] | None = None,
    ) -> Self:
        """A shallow copy that reads these tensors for its parameters (and buffers)."""
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)
        clone.__dict__["_parameters"] = parameters
        if buffers is not None:
            clone.__dict__["_buffers"] = buffers
        return clone

    def prepare(self) -> Self:
        """A shallow copy for one sequence: its recurrent weights are made and gathered once."""
        clone = self.bind(self._parameters)
        clone.__dict__["_weights"] = clone.recurrent_weights()
        clone.__dict__["_late"] = {}
        clone.__dict__["_early"] = {
            names: clone._gather(names, late=False) for names in self.layout.early()
        }
        return clone

    def project_sequence(self, x: Tensor, dt: Tensor | None) -> dict[str, Tensor]:
        """`project` as a dict, with the elapsed time where the cell takes it.

        Raises:
            TypeError, ValueError: dt is not of x's leading shape, or given to a cell that has no
                use for it; `project` gives a tensor the name of a gate.
        """
        projected = self.project(x)
        if isinstance(projected, Tensor):
            projected = {"all": projected}
        if clash := projected.keys() & self.layout.x_sizes.keys():
            raise ValueError(f"{self.name}.project calls a tensor {clash.pop()!r} like a gate")
        if self.elapsed_time:
            dt = x.new_ones(x.shape[:-1]) if dt is None else dt
            if not isinstance(dt, Tensor):
                raise TypeError(f"dt must be a tensor, not {type(dt).__name__}")
            if dt.shape != x.shape[:-1]:
                raise ValueError(f"dt must be {tuple(x.shape[:-1])}, not {tuple(dt.shape)}")
            projected["dt"] = dt.unsqueeze(-1).to(self._like.dtype)
        elif dt is not None:
            raise ValueError(f"{self.name} takes no elapsed time: leave dt out")
        return projected

    def pre_activations(
        self, projected: Mapping[str, Tensor], states: tuple[Tensor, ...]
    ) -> PreActivations:
        """The projections of one step: those of x are given, those of the states are made."""
        layout = self.layout
        named = {name: value for name, value in projected.items() if name != "all"}
        x = Part(projected.get("all"), layout.x_sizes, named)
        by_name = dict(zip(layout.states, states, strict=True))
        products = []
        for names, (block, weight, bias) in self._early.items():
            operand = [by_name[name] for name in block.operand]
            v = operand[0] if len(operand) == 1 else torch.cat(operand, -1)
            products.append(block.product(v, weight, bias, len(names)).to(weight.dtype))
        return PreActivations(x, layout.joined(list(self._early), products))

    def advance(self, projected: Mapping[str, Tensor], states: tuple[Tensor, ...]) -> Step:
        """One step of a prepared cell: products with the states, then `update`."""
        a = self.pre_activations(projected, states)
        return self.normalise(self.update(a, states_type(tuple(self.layout.states))(*states)))

    def normalise(self, result: Any) -> Step:
        """What `update` returned, as states and output."""
        states: Any
        output: Any
        if isinstance(result, Tensor):
            states, output = (result,), result
        elif isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], tuple):
            states, output = result
        else:
            states, output = result, result[0] if isinstance(result, tuple) and result else None
        if (
            not isinstance(states, tuple)
            or len(states) != len(self.layout.states)
            or not all(isinstance(tensor, Tensor) for tensor in (*states, output))
        ):
            names = ", ".join(self.layout.states)
            returned = result if isinstance(result, tuple) else (result,)
            got = [type(each).__name__ for each in returned]
            raise TypeError(
                f"{self.name}.update must return the states ({names}) as tensors, or "
                f"((states…), output); it returned {', '.join(got) or 'nothing'}"
            )
        return Step(states, output)

    @property
    def name(self) -> str:
        """The registered name, else the class's."""
        return vars(type(self)).get("registered_name") or type(self).__name__

    def width(self, extent: int | str) -> int:
        """A declared extent: a number, or the attribute of that name."""
        return getattr(self, extent) if isinstance(extent, str) else extent

    @property
    def fused_size(self) -> int:
        """The rows of all gates together, G·H where every gate is as wide as the state."""
        return sum(self.width(gate.width) for gate in self.layout.gates.values())

    def extra_repr(self) -> str:
        """Sizes and options."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias}{options}"

    @property
    def _like(self) -> Tensor:
        """A parameter, for its dtype and device."""
        return next(tensor for tensor in self._parameters.values() if tensor is not None)

    # -- from declarations to parameters -----------------------------------------------------

    def _make_parameters(self, device: Any, dtype: torch.dtype | None) -> None:
        shapes: dict[str, tuple[int, ...] | None] = {}
        x_total = sum(self.layout.x_sizes.values())
        h_total = sum(block.shape[0] for block in self.layout.blocks.values())
        shapes["weight_ih"] = (x_total, self.input_size) if x_total else None
        for name, block in self.layout.blocks.items():
            if name not in self.derived:
                shapes[name] = block.shape
        for name, total in (("ih", x_total), ("hh", h_total)):
            shapes[f"bias_{name}"] = (
                (total,) if self.bias and name in self.biases and total else None
            )
        self._check_names(shapes)
        for name, extra in self.extra.items():
            extents = tuple(self.width(extent) for extent in extra.shape)
            shapes[name] = extents if all(extents) else None
        self._matrices = {
            name for name in self.extra if shapes[name] and len(shapes[name] or ()) == 2
        }
        for name, shape in shapes.items():
            if shape is None:
                self.register_parameter(name, None)
            else:
                self.register_parameter(
                    name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                )
        if not any(shapes.values()):
            raise TypeError(f"{self.name} has no parameters")
        bound = 1 / math.sqrt(self.hidden_size)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if parameter is None:
                    continue
                if name in self.extra and self.extra[name].init is not None:
                    self.extra[name].start(self, parameter)
                else:
                    parameter.uniform_(-bound, bound)

    def _check_names(self, fused: Collection[str]) -> None:
        for name in self.extra:
            if name in fused or name in self.layout.gates or hasattr(type(self), name):
                raise TypeError(f"{self.name}: the extra parameter's name {name!r} is taken")
        for name in self.derived:
            if name not in self.layout.blocks:
                hint = nearest(name, self.layout.blocks)
                raise TypeError(f"{self.name} has no recurrent weight {name!r} to derive: {hint}")
        for name in self.biases:
            if name not in ("ih", "hh"):
                raise TypeError(f"{self.name}: biases are ih and hh, not {name!r}")

    def _gather(self, names: Sequence[str], late: bool) -> tuple[Block, Tensor, Tensor | None]:
        """The fused rows of some gates of one block, for a prepared cell."""
        gates, h_rows = self.layout.gates, self.layout.h_rows
        parameters = {h_rows[name][0] for name in names if name in h_rows}
        wrong = [name for name in names if name not in h_rows or gates[name].late is not late]
        if wrong or len(parameters) != 1:
            lates = [name for name, gate in gates.items() if gate.late]
            hint = nearest("+".join(names), [*lates, *self._matrices])
            raise ValueError(f"{self.name}: no late product {'+'.join(names)!r}: {hint}")
        parameter = parameters.pop()
        weight = gather(self._weights[parameter], [h_rows[name][1] for name in names])
        bias: Tensor | None = self.bias_hh
        if bias is not None:
            bias = gather(bias, [self.layout.bias_rows[name] for name in names])
        return self.layout.blocks[parameter], weight, bias


def positive(name: str, value: Any) -> int:
    """A positive whole number, or an error that says which one is not."""
    symbolic = isinstance(value, torch.SymInt)  # where an engine traces sizes
    if isinstance(value, bool) or not (symbolic or isinstance(value, int)):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value <= 0:
        raise ValueError(f"{name} must be greater than zero, not {value}")
    return value


def _state_dtype(state: State, dtype: torch.dtype) -> torch.dtype:
    if state.dtype == "complex":
        return dtype.to_complex()
    return state.dtype or dtype
