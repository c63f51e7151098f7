"""`RNN`: any cell as a sequence layer with torch.nn.LSTM's signature and semantics."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from functools import partial
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

Layers = list[list[GatedCell]]


class RNN(nn.Module):
    """A cell run through time: layers, directions, packed input.

    Takes and returns what torch.nn.LSTM does, for any cell:
    `output, state = rnn(x, state=None)`.

    Args:
        cell: a registered name or a subclass of GatedCell.
        input_size: I.
        hidden_size: H.
        num_layers: layers, each reading the one below.
        bias: whether the fused biases exist.
        batch_first: x and output are (B, T, …) instead of (T, B, …).
        dropout: the probability of zeroing an output between layers, in training.
        bidirectional: a second cell reads the sequence backwards; outputs lie side by side.
        device, dtype: of the parameters.
        init: an init scheme: its name, or a mapping of `name`, options and `blocks` (see Init).
        forget_bias, chrono: see Init.
        engine: "auto" (native where exact, else scan where the cell is linear, else loop), or an
            engine by name ("native", "compiled", "scan", "loop"; on CUDA also "persistent"); see
            `explain` and `settle_engine`. On CUDA compiled and persistent were not measured.
        checkpoint_steps: keep states for the backward pass only every so many steps, and compute
            those between again: less memory for long sequences, and more time. None: keep all.
        options: the cell's own (`proj_size` of lstm, `nonlinearity` of elman, …).

    Parameters have torch.nn's flat names (`weight_ih_l0`, `bias_hh_l1_reverse`), and so have a
    cell's extra ones (`peephole_i_l0`): state dicts of torch.nn.LSTM, GRU and RNN load into
    `lstm`, `gru` and `elman`, and the other way.

    Raises:
        UnknownNameError: no cell or init has that name; the message names the nearest.
        ValueError, TypeError: a size, an option or an init that makes no sense.
        EngineError: the engine asked for cannot run the cell.
        ImpureUpdateError: the cell's update is not a pure function.
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
            if meant := closest(name, inspect.signature(RNN).parameters):  # else the cell says it
                raise TypeError(f"RNN has no argument {name!r}: did you mean {meant!r}?")
        self.input_size = positive("input_size", input_size)
        self.hidden_size = positive("hidden_size", hidden_size)
        self.num_layers = positive("num_layers", num_layers)
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        self.bidirectional = bool(bidirectional)
        if not 0 <= dropout <= 1 or isinstance(dropout, bool):
            raise ValueError(f"dropout is a probability between 0 and 1, not {dropout!r}")
        if dropout > 0 and num_layers == 1:
            warnings.warn("dropout acts between layers: with num_layers=1 it does nothing",
                          stacklevel=2)  # fmt: skip
        self.dropout = float(dropout)
        self.engine = engine
        if checkpoint_steps is not None:
            positive("checkpoint_steps", checkpoint_steps)
        self.checkpoint_steps = checkpoint_steps
        self._ran: tuple[str, list[str]] | None = None
        self.init = Init.of(init, forget_bias, chrono)
        directions = 2 if bidirectional else 1
        width = self.input_size
        # The cells here hold no parameters of their own: the flat ones of this module are bound
        # to a copy at each use, so that whatever replaces a parameter is seen.
        self._cells: list[GatedCell] = []
        for layer in range(self.num_layers):
            for direction in range(directions):
                template = kind(width, hidden_size, bias, device, dtype, **options)
                suffix = _suffix(layer, direction)
                for name, parameter in template._parameters.items():
                    self.register_parameter(name + suffix, parameter)
                for name, buffer in template._buffers.items():
                    self.register_buffer(name + suffix, buffer)
                if template._modules:
                    raise TypeError(
                        f"{template.name} holds modules ({', '.join(template._modules)}): declare "
                        f"their weights as extra parameters, so that engines can hand them in"
                    )
                self._cells.append(template.bind(dict.fromkeys(template._parameters),
                                                 dict.fromkeys(template._buffers)))  # fmt: skip
            width = directions * template.output_size
        for name in self._cells[0].layout.states:
            widths = {cell.width(cell.layout.states[name].width) for cell in self._cells}
            if len(widths) > 1:
                raise ValueError(
                    f"state {name!r} must be as wide in every layer, for one tensor to hold it; "
                    f"its widths are {sorted(widths)}"
                )
        engines.check_engine(engine, self._cells[0])
        purity.check(self.cell())
        self.reset_parameters()

    @property
    def output_size(self) -> int:
        """The width of the outputs, both directions together."""
        return self._cells[0].output_size * (2 if self.bidirectional else 1)

    def cell(self, layer: int = 0, reverse: bool = False) -> GatedCell:
        """The cell of one layer and direction, bound to its parameters."""
        directions = 2 if self.bidirectional else 1
        if not 0 <= layer < self.num_layers or (reverse and not self.bidirectional):
            raise IndexError(f"there is no layer {layer}" + (" backwards" if reverse else ""))
        template, suffix = self._cells[layer * directions + reverse], _suffix(layer, reverse)
        cell = template.bind(
            {name: getattr(self, name + suffix) for name in template._parameters},
            {name: getattr(self, name + suffix) for name in template._buffers},
        )
        cell.training = self.training
        return cell

    def gate_weights(self, layer: int = 0, reverse: bool = False) -> dict[str, GateWeights]:
        """Each gate's W, U and biases by name, as views of the fused parameters."""
        return self.cell(layer, reverse).gate_weights()

    def extra_parameters(self) -> dict[str, Extra]:
        """What the cell declares of its extra parameters, by their names here."""
        directions = 2 if self.bidirectional else 1
        found: dict[str, Extra] = {}
        for number, cell in enumerate(self._cells):
            suffix = _suffix(*divmod(number, directions))
            found |= {name + suffix: extra for name, extra in cell.extra.items()}
        return {name: extra for name, extra in found.items() if self._parameters[name] is not None}

    def reset_parameters(self) -> None:
        """Initialise all parameters anew."""
        for layer in self._layers():
            for cell in layer:
                self.init(cell)

    def initial_state(self, batch: int) -> Any:
        """The state that `forward` starts from: (layers · directions, batch, H), or a tuple."""
        return self._given(self._initial_states(self._layers(), batch))

    def forward(
        self, x: Tensor | PackedSequence, state: Any = None, dt: Tensor | None = None
    ) -> tuple[Any, Any]:
        """Run a sequence.

        Args:
            x: (T, B, I); (B, T, I) with batch_first; unbatched (T, I); or a PackedSequence.
            state: the initial state, (layers · directions, B, H), a tuple of such for cells of
                more than one state; without B for unbatched x. None: zeros, or what the cell says.
            dt: elapsed times for cells that take them, x's shape without I (packed: the rows);
                step t takes dt[t] in both directions. None: 1.

        Returns:
            The outputs in x's form, and the final state in the form of `state`.

        Raises:
            ValueError: a shape that does not fit.
            EngineError: the engine asked for by name cannot run this input.
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
            return output.squeeze(1), self._given([s.squeeze(1) for s in final])
        return output.transpose(0, 1) if self.batch_first else output, self._given(final)

    def explain(self, x: Tensor | None = None) -> str:
        """Which engine runs this, and why not a faster one; x: an input to ask it for."""
        if x is None:
            x = self._like().new_zeros(1, 1, self.input_size)
        return self._in_words(*self._choose(self._layers()[0], x))

    def settle_engine(self) -> list[str]:
        """Have "auto" mean, from now on, the fastest engine here, compiled if need be, and tried.

        It depends on the cell, its options, dtype and device, on whether autocast is on, and on
        the machine; an engine asked for by name stays. On CUDA nothing was measured: it is native
        or the loop there.

        Returns:
            Why it is no faster one, in one line each; nothing where it is the fastest.
        """
        why: list[str] = []
        if self.engine != "auto":
            return why
        for candidate in engines.fastest(self.cell()):
            trial = copy.deepcopy(self)  # a projection in training may write to its buffers
            trial.engine = candidate
            try:
                trial._try()
            except engines.EngineError as error:
                why.append(str(error))
            else:
                self.engine = candidate
                break
        return why

    def _try(self) -> None:
        """A forward and a backward pass over two steps."""
        x = self._like().new_zeros(2, 2, self.input_size)
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices), torch.enable_grad():
            output, _ = self(x)
            wanted = [p for p in self.parameters() if p.requires_grad]
            if wanted:
                torch.autograd.grad(output.float().sum(), wanted, allow_unused=True)

    @property
    def ran(self) -> str | None:
        """The engine of the last call, in the words of `explain`; None before the first."""
        return None if self._ran is None else self._in_words(*self._ran)

    def _in_words(self, engine: str, why: list[str]) -> str:
        chosen = " (chosen)" if self.engine == "auto" else ""
        return engine + chosen + "".join(f"; {reason}" for reason in why)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        cell = self._cells[0]
        text = f"{cell.name}, {self.input_size}, {self.hidden_size}"
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
                    "bidirectional": False, "engine": "auto",
                    "checkpoint_steps": None}  # fmt: skip
        for name, default in defaults.items():
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        for name, spec in option_specs(type(cell)).items():
            if cell.options[name] != spec.default:
                text += f", {name}={cell.options[name]!r}"
        return text + (f", init={self.init.name}" if self.init.name != "torch" else "")

    def _layers(self) -> Layers:
        """Each layer's cells by direction, bound to the parameters."""
        directions = (False, True) if self.bidirectional else (False,)
        return [[self.cell(i, reverse) for reverse in directions] for i in range(self.num_layers)]

    def _run(
        self,
        layers: Layers,
        x: Tensor,
        states: list[Tensor],
        batch_sizes: Tensor | None,
        dt: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """All layers over time-first x; states are (layers · directions, B, width) each."""
        by_cell = list(zip(*(state.unbind(0) for state in states), strict=True))
        finals: list[tuple[Tensor, ...]] = []
        for number, layer in enumerate(layers):
            if number and self.dropout and self.training:
                x = dropout(x, self.dropout)
            engine, why = self._choose(layer, x, batch_sizes, dt)
            self._ran = engine, why
            run = engines.ENGINES[engine].run
            if self.checkpoint_steps is not None and torch.is_grad_enabled():
                run = partial(run, checkpoint_steps=self.checkpoint_steps)
            initial = by_cell[number * len(layer) : (number + 1) * len(layer)]
            x, final = run(layer, x, initial, batch_sizes, dt)
            finals.extend(final)
        return x, [torch.stack(parts) for parts in zip(*finals, strict=True)]

    def _choose(
        self,
        layer: list[GatedCell],
        x: Tensor,
        batch_sizes: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[str, list[str]]:
        return engines.choose(self.engine, layer, x, batch_sizes, dt, self.checkpoint_steps)

    def _forward_packed(
        self, packed: PackedSequence, state: Any, dt: Tensor | None
    ) -> tuple[PackedSequence, Any]:
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
        return packed, self._given(final)

    def _check_x(self, x: Tensor, layers: Layers, steps: int | None = None) -> None:
        if (len(x) if steps is None else steps) == 0:
            raise ValueError("expected a sequence of at least one step")
        if x.shape[-1] != self.input_size:
            raise ValueError(f"x's last dimension must be {self.input_size}, not {x.shape[-1]}")
        layers[0][0].check_dtype(x)

    def _like(self) -> Tensor:
        return next(self.parameters())

    def _initial_states(self, layers: Layers, batch: int) -> list[Tensor]:
        """Each state's initial value for all layers and directions."""
        each = (cell.initial_state(batch) for layer in layers for cell in layer)
        return [torch.stack(parts) for parts in zip(*each, strict=True)]

    def _states(self, state: Any, batch: int, unbatched: bool, layers: Layers) -> list[Tensor]:
        """The initial states as a list, each checked."""
        expected = self._initial_states(layers, batch)
        if state is None:
            return expected
        shape = "(layers · directions, batch, width)"
        if unbatched:
            expected, shape = [s.squeeze(1) for s in expected], shape.replace(" batch,", "")
        states = self._cells[0].as_states(state, expected, shape)
        return [s.unsqueeze(1) if unbatched else s for s in states]

    def _given(self, states: list[Tensor]) -> Any:
        return self._cells[0].as_given(tuple(states))


def _suffix(layer: int, reverse: int | bool) -> str:
    return f"_l{layer}{'_reverse' if reverse else ''}"
