"""The base class of every cell, with the fused projections and their split into named gates.

An author writes gates, states and `update`, and declares anything else that a published cell
needs (declare.py). Shapes, with batch B, input size I, hidden size H and G gates:

    x_t (B, I) · states (B, H) · weight_ih (G·H, I) · weight_hh (G·H, H) · bias_ih, bias_hh (G·H)

The rows of weights and biases belong to the gates in declared order.
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
from cellzoo.cells.layout import Layout
from cellzoo.cells.preactivations import PreActivations
from cellzoo.cells.prepared import PreparedCell, Products
from cellzoo.names.options import resolve
from cellzoo.names.registry import nearest


class GateWeights(NamedTuple):
    """The blocks of one gate in the fused parameters, as views; None where there is no block."""

    weight_ih: Tensor | None
    weight_hh: Tensor | None
    bias_ih: Tensor | None
    bias_hh: Tensor | None


class GatedCell(nn.Module):
    """A recurrent cell: named gates, named states and an update.

    Args:
        input_size: I, the width of x.
        hidden_size: H, the default width of gates and states.
        bias: whether the fused biases exist.
        device: the device of the parameters.
        dtype: the dtype of the parameters.
        options: the options that the cell declares by `option`.

    A cell declares, as class attributes or as properties that read its options:

        gates      names, or names to `Gate`, in the order of the rows of the fused weights
        states     names, or names to `State`; the first is the output unless `update` returns one
        extra      further parameters by name, `Extra`
        keep       the gate that keeps the memory: +1 if a large value keeps, −1 if it overwrites
        write      likewise the gate that admits new content, where this is a gate of its own
        biases     the fused biases: ("ih", "hh") unless the paper has only one
        derived    recurrent weights that `recurrent_weights` computes, so that no parameter exists
        elapsed_time   whether steps take the time since the last one, as `a.x.dt` (B, 1)
        paper_init the initialisation that the paper prescribes, for `init="paper"`: a mapping
                   as `Init.of` takes
        linear     whether all states enter linearly, by `linear.recur`, so that `scan` may run it
        bounded    whether the states stay finite over thousands of steps of large inputs
        native     the kernel of torch.nn that computes exactly this class: "lstm", "gru", "rnn"
        paper      the citation
        reference  the source of the reference implementation: "paper", "author's code",
                   "secondary source" or "memory"; "" where there is none
        engines    the engines that may run it (None: any), with `engines_reason`

    Raises:
        ValueError, TypeError: a size is not a positive whole number, or an option is unknown or
            not among its choices.

    Example:
        >>> class Leaky(GatedCell):
        ...     gates = ("n",)
        ...
        ...     def update(self, a, s):
        ...         return 0.9 * s.h + 0.1 * torch.tanh(a.n)
        >>> cell = Leaky(3, 4)
        >>> output, h = cell.step(torch.zeros(2, 3))
        >>> output.shape
        torch.Size([2, 4])
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
        """Compute one step. It must be a pure function; see `cells.purity`.

        Args:
            a: the pre-activations by gate, (B, H) each.
            s: the states by name, (B, H) each.

        Returns:
            The new states in declared order (one tensor if there is one state). If the output is
            not the first state: `(states, output)`, where states is a tuple.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def project(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Compute everything that ignores the state, for a whole sequence at once.

        Draw random masks and read buffers here.

        Args:
            x: (…, I), time first; packed input is (rows, I).

        Returns:
            The fused projection (…, G·H), or a dict with it as "all" and with further tensors of
            the same leading shape, which `update` reads as `a.x.<name>`.
        """
        return self.project_gates(x)

    def recurrent_weights(self) -> dict[str, Tensor]:
        """Return the recurrent weights by parameter name, computed once per sequence.

        Override it for a block that is a transform of a parameter: antisymmetric, masked, low
        rank (then name the weight in `derived`).
        """
        return {
            name: getattr(self, name) for name in self.layout.blocks if name not in self.derived
        }

    @property
    def output_size(self) -> int:
        """Return the width of the output."""
        return self.hidden_size

    # -- for authors to call -----------------------------------------------------------------

    def product(self, gate: str | tuple[str, ...], v: Tensor) -> Any:
        """Return a product within the step.

        Args:
            gate: a late gate (bias_hh is added), a matrix `Extra`, or several late gates of one
                operand, which share one product.
            v: the operand, (B, columns).

        Returns:
            (B, rows); for several gates, one tensor each.
        """
        return Products(self)(gate, v)  # a prepared cell has its products in place of this

    def project_gates(self, x: Tensor, **functions: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the fused input projection.

        Args:
            x: (…, I).
            functions: applied to gates by name: with `n=torch.tanh`, `a.x.n` is
                tanh(W_n x + b_n).

        Returns:
            (…, G·H).
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
        """Split a fused tensor (…, G·H) by gate, in declared order."""
        return fused.split([self.width(gate.width) for gate in self.layout.gates.values()], -1)

    # -- for users ---------------------------------------------------------------------------

    def gate_weights(self) -> dict[str, GateWeights]:
        """Return each gate's W, U and biases by name, as views of the fused parameters.

        Example:
            >>> import cellzoo
            >>> cellzoo.build_cell("lstm", 3, 4).gate_weights()["f"].weight_hh.shape
            torch.Size([4, 4])
        """

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
        """Return the initial value of each state, (batch, width), in declared order."""
        dtype, device = self._like.dtype, self._like.device
        states = []
        for state in self.layout.states.values():
            kind = dtype.to_complex() if state.dtype == "complex" else state.dtype or dtype
            shape = batch, self.width(state.width)
            states.append(torch.full(shape, state.initial, dtype=kind, device=device))
        return tuple(states)

    def step(self, x_t: Tensor, state: Any = None, dt: Tensor | None = None) -> tuple[Tensor, Any]:
        """Run one step by itself.

        Args:
            x_t: (B, I).
            state: (B, H), or a tuple of such for several states; None: the initial state.
            dt: the elapsed time (B,), for cells that take it; None: 1.

        Returns:
            The output (B, H) and the new state: a tensor, or a tuple for several states.

        Raises:
            TypeError, ValueError: x_t, state or dt has the wrong type, shape or dtype.
            ImpureUpdateError: `update` is not a pure function.
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
        prepared = PreparedCell(self)
        result = prepared.advance(self.project_sequence(x_t, dt), states)
        return result.output, self.as_given(result.states)

    forward = step

    def as_states(
        self, state: Any, expected: Sequence[Tensor], shape: str = "(batch, width)"
    ) -> tuple[Tensor, ...]:
        """Return a state (a tensor, or a tuple of several) as a tuple.

        Args:
            state: the state as a user passes it.
            expected: tensors of the expected shapes and dtypes.
            shape: names the extents in messages.

        Raises:
            TypeError, ValueError: the number, shapes or dtypes are not the expected ones.
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
        """Check that x has the dtype of the parameters, unless autocast is on.

        Raises:
            ValueError: it has another dtype.
        """
        if x.dtype != self._like.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"x must be {self._like.dtype} like the parameters, not {x.dtype}")

    def as_given(self, states: tuple[Tensor, ...]) -> Any:
        """Return a tuple of states as users receive it: one tensor if there is one state."""
        return states[0] if len(states) == 1 else states

    # -- for engines -------------------------------------------------------------------------

    def bind(
        self,
        parameters: Mapping[str, Tensor | None],
        buffers: Mapping[str, Tensor | None] | None = None,
        **fields: Any,
    ) -> Self:
        """Return a shallow copy that reads these tensors as its parameters and buffers.

        Args:
            parameters: by name.
            buffers: by name; None: those of this cell.
            fields: other attributes of the copy.
        """
        buffers = self._buffers if buffers is None else buffers
        copy = object.__new__(type(self))
        vars(copy).update(vars(self), _parameters=parameters, _buffers=buffers, **fields)
        return copy

    def project_sequence(self, x: Tensor, dt: Tensor | None) -> dict[str, Tensor]:
        """Return `project` as a dict, with the elapsed time "dt" where the cell takes it.

        Args:
            x: (…, I).
            dt: elapsed times (…,) for cells that take them; None: 1.

        Raises:
            TypeError, ValueError: dt does not have x's leading shape, the cell takes none, or
                `project` gives a tensor the name of a gate.
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

    @property
    def name(self) -> str:
        """Return the registered name, or the class's."""
        return vars(type(self)).get("registered_name") or type(self).__name__

    def width(self, extent: int | str) -> int:
        """Return a declared extent: a number, or the attribute of that name."""
        return getattr(self, extent) if isinstance(extent, str) else extent

    @property
    def fused_size(self) -> int:
        """Return the rows of all gates together; G·H if every gate is as wide as the state."""
        return sum(self.width(gate.width) for gate in self.layout.gates.values())

    def extra_repr(self) -> str:
        """Return the sizes and options."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias}{options}"

    @property
    def _like(self) -> Tensor:
        """Return a parameter, for its dtype and device."""
        return next(tensor for tensor in self._parameters.values() if tensor is not None)

    # -- from declarations to parameters -----------------------------------------------------

    def _make_parameters(self, device: Any, dtype: torch.dtype | None) -> None:
        x_total = sum(self.layout.x_sizes.values())
        h_total = sum(block.shape[0] for block in self.layout.blocks.values())
        shapes: dict[str, tuple[int, ...] | None] = {
            "weight_ih": (x_total, self.input_size) if x_total else None
        }
        for name, block in self.layout.blocks.items():
            if name not in self.derived:
                shapes[name] = block.shape
        for name, total in (("ih", x_total), ("hh", h_total)):
            exists = self.bias and name in self.biases and total
            shapes[f"bias_{name}"] = (total,) if exists else None
        self._check_names(shapes)
        for name, extra in self.extra.items():
            extents = tuple(self.width(extent) for extent in extra.shape)
            shapes[name] = extents if all(extents) else None
        self._matrices = {name for name in self.extra if len(shapes[name] or ()) == 2}
        for name, shape in shapes.items():
            tensor = None if shape is None else torch.empty(shape, device=device, dtype=dtype)
            self.register_parameter(name, None if tensor is None else nn.Parameter(tensor))
        if not any(shapes.values()):
            raise TypeError(f"{self.name} has no parameters")
        bound = 1 / math.sqrt(self.hidden_size)
        with torch.no_grad():
            for name, parameter in self.named_parameters(recurse=False):
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


def positive(name: str, value: Any) -> int:
    """Return a positive whole number.

    Raises:
        TypeError, ValueError: the value is none; the message names the argument.
    """
    symbolic = isinstance(value, torch.SymInt)  # an engine traces with symbolic sizes
    if isinstance(value, bool) or not (symbolic or isinstance(value, int)):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value <= 0:
        raise ValueError(f"{name} must be greater than zero, not {value}")
    return value
