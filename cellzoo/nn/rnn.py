"""`RNN`: a sequence layer for any cell, with torch.nn.LSTM's signature and semantics."""

import copy
import inspect
import os
import warnings
from collections.abc import Mapping
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.utils.rnn import PackedSequence

from cellzoo import engines
from cellzoo.cells import purity
from cellzoo.cells.base import GatedCell, GateWeights, positive
from cellzoo.cells.declare import Extra
from cellzoo.cells.registry import cell_class
from cellzoo.names.options import option_specs
from cellzoo.names.registry import closest
from cellzoo.nn.inits import Init

Layers = list[list[GatedCell]]  # by layer, then by direction
_one_trial = RLock()  # threads that use a cell for the first time compile it once
DEFAULTS = {  # of the arguments that `repr` shows where they differ
    "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False,
    "engine": "auto", "checkpoint_steps": None,
}  # fmt: skip


class RNN(nn.Module):
    """A recurrent layer: a cell that runs over a sequence, in several layers and directions.

    It takes and returns what torch.nn.LSTM does, for any cell:
    `output, state = rnn(x, state=None)`.

    Args:
        cell: The name of a registered cell, or a subclass of GatedCell.
        input_size: I, the width of x.
        hidden_size: H, the hidden size.
        num_layers: The number of layers. Each reads the outputs of the layer below.
        bias: Whether the cells have the fused biases.
        batch_first: Whether x and the output are (B, T, …) instead of (T, B, …).
        dropout: The probability of zeroing an output between layers, in training.
        bidirectional: Whether a second cell reads the sequence backwards. The outputs of both
            directions are concatenated.
        device, dtype: The device and dtype of the parameters.
        init: The init scheme: a name, a mapping of `name`, options and `blocks`, or an `Init`.
        forget_bias, chrono: See `Init`.
        engine: "auto", the fastest engine that runs the input on this machine; or an engine by
            name ("native", "compiled", "scan", "loop"; on CUDA also "persistent"). "auto" compiles
            a cell at its first call with gradients, once per machine (about 5 s); before that, and
            where CELLZOO_COMPILE=0 is set, it is the fastest of the others. See `explain` and
            `settle_engine`. On CUDA, compiled and persistent were not measured.
        checkpoint_steps: The interval in time steps at which states are kept for the backward
            pass. The states between are recomputed, which saves memory and takes time. None: keep
            the states of every step.
        options: The cell's own options (`proj_size` of lstm, `nonlinearity` of elman, …).

    Raises:
        UnknownNameError: No cell or init has that name; the message gives the nearest.
        ValueError, TypeError: A size, an option or an init is invalid.
        EngineError: The engine cannot run the cell.
        ImpureUpdateError: The cell's update is not a pure function.

    The parameters have torch.nn's flat names (`weight_ih_l0`, `bias_hh_l1_reverse`), and so have
    the extra parameters of a cell (`peephole_i_l0`). State dicts of torch.nn.LSTM, GRU and RNN load
    into `lstm`, `gru` and `elman`, and vice versa.

    Example:
        >>> rnn = RNN("lstm", 3, 4, num_layers=2, forget_bias=1.0, engine="native")
        >>> rnn
        RNN(lstm, 3, 4, num_layers=2, engine=native)
        >>> x = torch.randn(7, 5, 3)  # 7 time steps of a batch of 5
        >>> with torch.no_grad():  # without gradients "auto" compiles nothing
        ...     output, (h, c) = rnn(x)
        >>> output.shape, h.shape, c.shape
        (torch.Size([7, 5, 4]), torch.Size([2, 5, 4]), torch.Size([2, 5, 4]))
        >>> rnn.explain()
        'native'
        >>> forget = rnn.gate_weights(layer=1)["f"]
        >>> forget.weight_ih.shape, forget.bias_ih.data
        (torch.Size([4, 4]), tensor([1., 1., 1., 1.]))
    """

    def __init__(
        self,
        cell: str | type[GatedCell],
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        init: str | Mapping[str, Any] | Init = "torch",
        forget_bias: float | None = None,
        chrono: float | None = None,
        engine: str = "auto",
        checkpoint_steps: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        kind = cell_class(cell)
        for name in options.keys() - option_specs(kind).keys():
            # A name that is no argument either is left to the cell, which names its options.
            if argument := closest(name, inspect.signature(RNN).parameters):
                raise TypeError(f"RNN has no argument {name!r}: did you mean {argument!r}?")
        self.input_size = positive("input_size", input_size)
        self.hidden_size = positive("hidden_size", hidden_size)
        self.num_layers = positive("num_layers", num_layers)
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        self.bidirectional = bool(bidirectional)
        if not 0 <= dropout <= 1 or isinstance(dropout, bool):
            raise ValueError(f"dropout must be a probability between 0 and 1, not {dropout!r}")
        if dropout > 0 and num_layers == 1:
            message = "dropout acts between layers: it has no effect with num_layers=1"
            warnings.warn(message, stacklevel=2)
        self.dropout = float(dropout)
        self.engine = engine
        if checkpoint_steps is not None:
            positive("checkpoint_steps", checkpoint_steps)
        self.checkpoint_steps = checkpoint_steps
        self.init = Init.of(init, forget_bias, chrono)
        self._directions = (False, True) if bidirectional else (False,)  # whether in reverse
        self._cells: list[GatedCell] = []  # layer by layer, without parameters
        self._ran: tuple[str, list[str]] | None = None
        self._compiled: dict[Any, str | None] = {}  # failures of compilation, by context
        self._add_cells(kind, device, dtype, options)
        engines.check_engine(engine, self._cells[0])
        purity.check(self.cell())
        self.reset_parameters()

    def _add_cells(
        self, kind: type[GatedCell], device: Any, dtype: torch.dtype | None, options: dict[str, Any]
    ) -> None:
        """Create the cells of all layers and register their parameters under flat names.

        The cells keep no parameters: `cell` binds those of this module to a copy at each use, so
        that a parameter that was replaced takes effect.
        """
        width = self.input_size
        for layer in range(self.num_layers):
            for reverse in self._directions:
                template = kind(width, self.hidden_size, self.bias, device, dtype, **options)
                if template._modules:
                    raise TypeError(
                        f"{template.name} holds modules ({', '.join(template._modules)}): declare "
                        f"their weights as extra parameters, so that engines can pass them in"
                    )
                suffix = _suffix(layer, reverse)
                for name, parameter in template._parameters.items():
                    self.register_parameter(name + suffix, parameter)
                for name, buffer in template._buffers.items():
                    self.register_buffer(name + suffix, buffer)
                self._cells.append(template.bind(dict.fromkeys(template._parameters),
                                                 dict.fromkeys(template._buffers)))  # fmt: skip
            width = template.output_size * len(self._directions)
        for name in self._cells[0].layout.states:
            widths = {cell.width(cell.layout.states[name].width) for cell in self._cells}
            if len(widths) > 1:
                raise ValueError(
                    f"state {name!r} must have the same width in every layer, as one tensor holds "
                    f"it; its widths are {sorted(widths)}"
                )

    # -- running -----------------------------------------------------------------------------

    def forward(
        self, x: Tensor | PackedSequence, state: Any = None, dt: Tensor | None = None
    ) -> tuple[Any, Any]:
        """Run a sequence.

        Args:
            x: (T, B, I); (B, T, I) with batch_first; unbatched (T, I); or a PackedSequence.
            state: The initial state: (layers · directions, B, H), or a tuple of such tensors for
                cells with several states; without B for unbatched x. None: `initial_state`.
            dt: Elapsed times, for cells that take them: the shape of x without I (packed: one per
                row). Step t uses dt[t] in both directions. None: 1.

        Returns:
            The outputs in the form of x, and the final state in the form of `state`.

        Raises:
            ValueError: A shape does not fit.
            EngineError: The engine that was chosen by name cannot run this input.
        """
        if isinstance(x, PackedSequence):
            return self._forward_packed(x, state, dt)
        if dt is not None and not isinstance(dt, Tensor):
            raise TypeError(f"dt must be a tensor, not {type(dt).__name__}")
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor or a PackedSequence, not {type(x).__name__}")
        if x.dim() not in (2, 3):
            raise ValueError(f"x must have 3 dimensions (2 unbatched), not {x.dim()}")
        unbatched = x.dim() == 2
        if unbatched:
            x = x.unsqueeze(1)
            dt = None if dt is None else dt.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
            dt = None if dt is None else dt.transpose(0, 1)
        layers = self._layers()
        self._check_x(x, layers)
        states = self._states(state, x.shape[1], unbatched, layers)
        output, final = self._run(layers, x, states, None, dt)
        if unbatched:
            return output.squeeze(1), self._as_given([s.squeeze(1) for s in final])
        return output.transpose(0, 1) if self.batch_first else output, self._as_given(final)

    def _forward_packed(
        self, packed: PackedSequence, state: Any, dt: Tensor | None
    ) -> tuple[PackedSequence, Any]:
        """Run a PackedSequence. The states are in the order of the unsorted batch."""
        x, batch_sizes, sorted_indices, unsorted_indices = packed
        if x.dim() != 2:
            raise ValueError(f"packed data must be (rows, {self.input_size}), not {tuple(x.shape)}")
        if len(batch_sizes) and (
            int(batch_sizes.sum()) != len(x) or batch_sizes.diff().gt(0).any()
        ):
            raise ValueError(
                f"batch_sizes must not grow and must sum to the {len(x)} rows of the packed data; "
                f"they sum to {int(batch_sizes.sum())}"
            )
        layers = self._layers()
        self._check_x(x, layers, steps=len(batch_sizes))
        states = self._states(state, int(batch_sizes[0]), False, layers)
        if sorted_indices is not None:
            states = [s.index_select(1, sorted_indices) for s in states]
        output, final = self._run(layers, x, states, batch_sizes, dt)
        if unsorted_indices is not None:
            final = [s.index_select(1, unsorted_indices) for s in final]
        packed = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return packed, self._as_given(final)

    def _layers(self) -> Layers:
        """Return the cells of each layer by direction, bound to the parameters."""
        layers = range(self.num_layers)
        return [[self.cell(layer, reverse) for reverse in self._directions] for layer in layers]

    def _check_x(self, x: Tensor, layers: Layers, steps: int | None = None) -> None:
        """Raise an error for x without steps, or of another width or dtype."""
        if (len(x) if steps is None else steps) == 0:
            raise ValueError("x must be a sequence of at least one time step")
        if x.shape[-1] != self.input_size:
            raise ValueError(f"x's last dimension must be {self.input_size}, not {x.shape[-1]}")
        layers[0][0].check_dtype(x)

    def _states(self, state: Any, batch: int, unbatched: bool, layers: Layers) -> list[Tensor]:
        """Return the initial states, (layers · directions, B, width) each, after checks."""
        expected = self._initial_states(layers, batch)
        if state is None:
            return expected
        shape = "(layers · directions, batch, width)"
        if unbatched:
            expected, shape = [s.squeeze(1) for s in expected], shape.replace(" batch,", "")
        states = self._cells[0].as_states(state, expected, shape)
        return [s.unsqueeze(1) if unbatched else s for s in states]

    def _initial_states(self, layers: Layers, batch: int) -> list[Tensor]:
        """Return the initial value of each state for all layers and directions."""
        states = (cell.initial_state(batch) for layer in layers for cell in layer)
        return [torch.stack(parts) for parts in zip(*states, strict=True)]

    def _run(
        self,
        layers: Layers,
        x: Tensor,
        states: list[Tensor],
        batch_sizes: Tensor | None,
        dt: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run all layers.

        Args:
            layers: The bound cells.
            x: (T, B, I), or (rows, I) if packed.
            states: The initial states, (layers · directions, B, width) each.
            batch_sizes: The batch size of each step, if packed.
            dt: Elapsed times, (T, B) or (rows,).

        Returns:
            The outputs, time first or packed, and the final states.
        """
        by_cell = list(zip(*(state.unbind(0) for state in states), strict=True))
        finals: list[tuple[Tensor, ...]] = []
        for number, cells in enumerate(layers):
            if number and self.dropout and self.training:
                x = dropout(x, self.dropout)
            layer = engines.Layer(cells, x, batch_sizes, dt)
            self._ran = self._choose(layer, may_compile=True)
            run = engines.ENGINES[self._ran[0]].run
            if self.checkpoint_steps is not None and torch.is_grad_enabled():
                run = partial(run, checkpoint_steps=self.checkpoint_steps)
            initial = by_cell[number * len(cells) : (number + 1) * len(cells)]
            x, final = run(layer, initial)
            finals.extend(final)
        return x, [torch.stack(parts) for parts in zip(*finals, strict=True)]

    def _as_given(self, states: list[Tensor]) -> Any:
        """Return the states in the form in which users pass them: a tensor or a tuple."""
        return self._cells[0].as_given(tuple(states))

    # -- parameters and states ---------------------------------------------------------------

    @property
    def output_size(self) -> int:
        """Return the width of the outputs, over all directions."""
        return self._cells[0].output_size * len(self._directions)

    def cell(self, layer: int = 0, reverse: bool = False) -> GatedCell:
        """Return the cell of one layer and direction, bound to its parameters.

        Raises:
            IndexError: There is no such layer or direction.
        """
        if not 0 <= layer < self.num_layers or reverse not in self._directions:
            raise IndexError(f"no layer {layer}" + (" in reverse" if reverse else ""))
        template = self._cells[layer * len(self._directions) + reverse]
        suffix = _suffix(layer, reverse)
        cell = template.bind(
            {name: getattr(self, name + suffix) for name in template._parameters},
            {name: getattr(self, name + suffix) for name in template._buffers},
        )
        cell.training = self.training
        return cell

    def gate_weights(self, layer: int = 0, reverse: bool = False) -> dict[str, GateWeights]:
        """Return the W, U and biases of each gate by name, as views of the fused parameters.

        A view has the gate's rows: weight_ih (H, I), weight_hh (H, H), bias_ih and bias_hh (H,);
        None where the gate has no such block.

        >>> weights = RNN("gru", 3, 4).gate_weights()
        >>> list(weights), weights["z"].weight_ih.shape
        (['r', 'z', 'n'], torch.Size([4, 3]))
        """
        return self.cell(layer, reverse).gate_weights()

    def extra_parameters(self) -> dict[str, Extra]:
        """Return the declarations of the cell's extra parameters, by their flat names.

        >>> list(RNN("peephole_lstm", 3, 4).extra_parameters())
        ['peephole_i_l0', 'peephole_f_l0', 'peephole_o_l0']
        """
        return {
            name + suffix: extra
            for number, cell in enumerate(self._cells)
            for suffix in [_suffix(*divmod(number, len(self._directions)))]
            for name, extra in cell.extra.items()
            if self._parameters[name + suffix] is not None
        }

    def reset_parameters(self) -> None:
        """Initialise all parameters again, by `init`."""
        for layer in self._layers():
            for cell in layer:
                self.init(cell)

    def initial_state(self, batch: int) -> Any:
        """Return the state that `forward` starts from for a batch size.

        It is (layers · directions, batch, H), or a tuple of such tensors for several states.

        >>> h, c = RNN("lstm", 3, 4, num_layers=2).initial_state(5)
        >>> h.shape
        torch.Size([2, 5, 4])
        """
        return self._as_given(self._initial_states(self._layers(), batch))

    # -- engines -----------------------------------------------------------------------------

    def explain(self, x: Tensor | None = None) -> str:
        """Return the engine that runs an input, and the reasons that rule out faster engines.

        This does not compile: before the first call with gradients, the engine is that of a call
        without.

        Args:
            x: An input, time first; None: one time step of one sequence.

        >>> RNN("gru_v1", 3, 4).explain()
        'loop (chosen); native declined: torch.nn has no kernel for gru_v1'
        """
        if x is None:
            x = self._like().new_zeros(1, 1, self.input_size)
        return self._in_words(*self._choose(engines.Layer(self._layers()[0], x)))

    def _choose(self, layer: engines.Layer, may_compile: bool = False) -> tuple[str, list[str]]:
        """Return the engine that runs an input of one layer, and the reasons against faster ones.

        "auto" uses the compiled engine after a successful trial in the same context.
        """
        names, reasons = [self.engine], []
        if self.engine == "auto":
            names, x = engines.candidates(layer.cells[0]), layer.x
            context = (x.dtype, x.device, torch.is_autocast_enabled(x.device.type), self.training)
            tried = context in self._compiled
            compiles = tried or (may_compile and self._should_compile())
            # On CUDA, or where the cell rules it out, "auto" never compiles.
            untried = not tried and compiles and "compiled" in engines.fastest(layer.cells[0])
            if untried and engines.compiled.declines(layer) is None:
                self._compiled[context] = self._trial("compiled")
            if failure := self._compiled.get(context):
                reasons.append(f"compiled declined: {failure}")
            if "compiled" in names and (failure or not compiles):
                names.remove("compiled")
        engine, declined = engines.choose(names, layer, self.checkpoint_steps)
        return engine, reasons + declined

    def _should_compile(self) -> bool:
        """Return whether this call trains the cell, or an earlier one compiled it."""
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        allowed = os.environ.get("CELLZOO_COMPILE") != "0"
        return allowed and (trains or None in self._compiled.values())

    @property
    def ran(self) -> str | None:
        """Return the engine of the last call, as `explain` does; None before the first call."""
        return None if self._ran is None else self._in_words(*self._ran)

    def _in_words(self, engine: str, reasons: list[str]) -> str:
        """Return an engine and the reasons against faster ones in one line."""
        chosen = " (chosen)" if self.engine == "auto" else ""
        return "; ".join([engine + chosen, *reasons])

    def settle_engine(self) -> list[str]:
        """Replace the engine "auto" by the name of the engine that it stands for, after a trial.

        The cell is compiled now if it never was on this machine. The engine depends on the cell,
        its options, dtype and device, on autocast, and on the machine. An engine that was chosen
        by name stays. On CUDA nothing was measured: there the result is native, scan or the loop.

        Returns:
            One line for each faster engine with the reason that rules it out.
        """
        reasons: list[str] = []
        if self.engine != "auto":
            return reasons
        for candidate in engines.fastest(self.cell()):
            failure = self._trial(candidate)
            if failure is None:
                self.engine = candidate
                break
            reasons.append(failure)
        return reasons

    def _trial(self, engine: str) -> str | None:
        """Run two steps forward and backward by an engine; return the reason if it fails."""
        trial = copy.copy(self)
        trial.engine = engine
        # A projection in training may write to its buffers.
        trial.__dict__["_buffers"] = {n: None if b is None else b.clone()
                                      for n, b in self._buffers.items()}  # fmt: skip
        x = self._like().new_zeros(2, 2, self.input_size)
        devices = [x.device] if x.is_cuda else []
        with _one_trial, torch.random.fork_rng(devices), torch.enable_grad():
            try:
                output, _ = trial(x)
                parameters = [p for p in self.parameters() if p.requires_grad]
                if parameters:
                    torch.autograd.grad(output.float().sum(), parameters, allow_unused=True)
            except engines.EngineError as error:
                return str(error)
        return None

    def _like(self) -> Tensor:
        """Return a parameter, for its dtype and device."""
        return next(self.parameters())

    def extra_repr(self) -> str:
        """Return the sizes, and the arguments that differ from their defaults."""
        cell = self._cells[0]
        options = {name: spec.default for name, spec in option_specs(type(cell)).items()}
        differing = [f"{name}={getattr(self, name)}" for name, default in DEFAULTS.items()
                     if getattr(self, name) != default]  # fmt: skip
        differing += [f"{name}={cell.options[name]!r}" for name, default in options.items()
                      if cell.options[name] != default]  # fmt: skip
        if self.init.name != "torch":
            differing.append(f"init={self.init.name}")
        return ", ".join([cell.name, str(self.input_size), str(self.hidden_size), *differing])


def _suffix(layer: int, reverse: int | bool) -> str:
    """Return the ending of the flat parameter names of one layer and direction."""
    return f"_l{layer}{'_reverse' if reverse else ''}"
