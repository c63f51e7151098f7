"""Initialisation of a cell's parameters, by matrix and by named gate.

A scheme fills one block in place: one gate's rows of one matrix. `init="orthogonal"` fills every
gate's recurrent block by that scheme, and the other parameters by the companion schemes that it
declares. `blocks` overrides any parameter or gate. Forget bias and chrono then set the total bias
of the gate that keeps the memory, according to the cell's declaration.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cellzoo.cells.base import GatedCell
from cellzoo.names.registry import Registry, nearest


@dataclass(frozen=True)
class Scheme:
    """A registered scheme.

    Attributes:
        fill: The function that fills a recurrent block in place.
        inputs: The scheme of the input matrices.
        vectors: The scheme of the biases and the extra vectors.
    """

    fill: Callable[..., None]
    inputs: str
    vectors: str

    @property
    def options(self) -> dict[str, Any]:
        """Return the scheme's options and their defaults: its keyword-only parameters."""
        parameters = inspect.signature(self.fill).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


inits: Registry[Scheme] = Registry("init")


def register_init(
    name: str,
    inputs: str | None = None,
    vectors: str = "zeros",
    deprecated: Collection[str] = (),
) -> Any:
    """Return a decorator that registers a function as an init scheme.

    The function `scheme(block, hidden_size, *, options…)` fills a block in place. A block is one
    gate's rows of a matrix, (H, I) or (H, H), or a vector, (H,).

    Args:
        name: The scheme's name in `init=` and `blocks`, in snake case.
        inputs: The scheme of the input matrices under `init=name`; None: this scheme.
        vectors: The scheme of the biases, and of the extra vectors without a declared value.
        deprecated: Former names of the scheme. They still work, warn once and are not listed.

    Raises:
        DuplicateNameError: A name is taken.

    Example:
        >>> from cellzoo import RNN, register_init
        >>> @register_init("lower_triangle")
        ... def lower_triangle(block, hidden_size, *, value=0.5):
        ...     block.data.fill_(value)
        ...     if block.dim() == 2:
        ...         block.data.tril_()
        >>> rnn = RNN("elman", 2, 2, init={"name": "lower_triangle", "value": 0.25})
        >>> rnn.weight_hh_l0.data
        tensor([[0.2500, 0.0000],
                [0.2500, 0.2500]])
    """

    def decorate(fill: Callable[..., None]) -> Callable[..., None]:
        inits.register(name, deprecated)(Scheme(fill, inputs or name, vectors))
        return fill

    return decorate


@register_init("torch", vectors="torch")
def torch_uniform(block: Tensor, hidden_size: int) -> None:
    """Fill a block uniformly in ±1/√hidden_size, as torch.nn does for every parameter."""
    bound = 1 / math.sqrt(hidden_size)
    nn.init.uniform_(block, -bound, bound)


@register_init("glorot")
def glorot(block: Tensor, hidden_size: int, *, gain: float = 1.0) -> None:
    """Fill a gate's block uniformly in ±gain·√(6/(rows + columns)) (Glorot & Bengio 2010).

    A diagonal block has no fan: it is filled uniformly in ±gain/√hidden_size.
    """
    if block.dim() == 1:
        nn.init.uniform_(block, -gain / math.sqrt(hidden_size), gain / math.sqrt(hidden_size))
    else:
        nn.init.xavier_uniform_(block, gain)


@register_init("orthogonal", inputs="glorot")
def orthogonal(block: Tensor, hidden_size: int, *, gain: float = 1.0) -> None:
    """Fill a gate's block with an orthogonal matrix (Saxe et al. 2014, arXiv:1312.6120)."""
    if block.dim() == 1:
        nn.init.constant_(block, gain)
    else:
        nn.init.orthogonal_(block, gain)


@register_init("identity", inputs="glorot")
def identity(block: Tensor, hidden_size: int, *, gain: float = 1.0) -> None:
    """Fill a gate's recurrent block with gain·I (Le, Jaitly, Hinton 2015, arXiv:1504.00941)."""
    if block.dim() == 1:
        nn.init.constant_(block, gain)
    else:
        nn.init.eye_(block)
        with torch.no_grad():
            block.mul_(gain)


@register_init("normal")
def normal(block: Tensor, hidden_size: int, *, std: float = 0.1) -> None:
    """Fill a block from the normal distribution with mean 0 and standard deviation std."""
    nn.init.normal_(block, 0.0, std)


@register_init("zeros")
def zeros(block: Tensor, hidden_size: int) -> None:
    """Fill a block with zeros."""
    nn.init.zeros_(block)


@register_init("constant", vectors="constant")
def constant(block: Tensor, hidden_size: int, *, value: float = 1.0) -> None:
    """Fill a block with one value."""
    nn.init.constant_(block, value)


@register_init("uniform")
def uniform(block: Tensor, hidden_size: int, *, low: float = -0.1, high: float = 0.1) -> None:
    """Fill a block uniformly between low and high."""
    nn.init.uniform_(block, low, high)


@register_init("uniform_gate")
def uniform_gate(block: Tensor, hidden_size: int) -> None:
    """Fill a bias so that the gate is uniform in [1/H, 1 − 1/H].

    (Gu et al. 2020, arXiv:1910.09890.)
    """
    low = 1 / max(2, hidden_size)  # for H = 1 as for H = 2, every gate is 1/2
    nn.init.uniform_(block, low, 1 - low)
    with torch.no_grad():
        block.logit_()


@register_init("paper", inputs="torch", vectors="torch")
def paper(block: Tensor, hidden_size: int) -> None:
    """Initialise as the paper of the cell does, and as `torch` where the paper leaves it open."""
    torch_uniform(block, hidden_size)


def list_inits(pattern: str = "*") -> list[str]:
    """Return the names of the registered init schemes that match a shell-style pattern, sorted.

    >>> list_inits("un*")
    ['uniform', 'uniform_gate']
    """
    return inits.names(pattern)


@dataclass(frozen=True)
class Init:
    """An initialisation of a cell.

    Attributes:
        name: The name of a registered scheme.
        options: The options of the scheme.
        forget_bias: The total bias of the gate that keeps the memory. A large value keeps.
        chrono: T_max of the chrono initialisation (Tallec & Ollivier 2018, arXiv:1804.11188): the
            forget bias is log U(1, T_max − 1), and its negative for the gate that writes.
        blocks: Overrides, from a parameter's name to a scheme or to {gate: scheme}. A scheme is a
            name or {"name": …, options…}.

    Example:
        >>> from cellzoo import RNN, Init
        >>> init = Init(forget_bias=1.0, blocks={"weight_hh": {"f": "orthogonal", "o": "zeros"}})
        >>> rnn = RNN("lstm", 2, 2, init=init)
        >>> rnn.gate_weights()["f"].bias_ih.data, rnn.gate_weights()["f"].bias_hh.data
        (tensor([1., 1.]), tensor([0., 0.]))
        >>> rnn.gate_weights()["o"].weight_hh.data
        tensor([[0., 0.],
                [0., 0.]])
    """

    name: str = "torch"
    options: Mapping[str, Any] = field(default_factory=dict)
    forget_bias: float | None = None
    chrono: float | None = None
    blocks: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        init: str | Mapping[str, Any] | Init = "torch",
        forget_bias: float | None = None,
        chrono: float | None = None,
    ) -> Init:
        """Return an Init for an argument of `RNN`.

        Args:
            init: A scheme's name; a mapping with `name`, options and any of `forget_bias`,
                `chrono` and `blocks`; or an Init.
            forget_bias: A value that replaces that of `init`.
            chrono: A value that replaces that of `init`.

        Raises:
            UnknownNameError: No scheme has that name.
            TypeError, ValueError: An unknown option; forget bias and chrono together; a T_max
                that is not greater than 2.

        Example:
            >>> Init.of({"name": "normal", "std": 0.01}, forget_bias=1.0)
            Init(name='normal', options={'std': 0.01}, forget_bias=1.0, chrono=None, blocks={})
        """
        if isinstance(init, Init):
            options = {key: value for key, value in vars(init).items() if key != "options"}
            options |= init.options
        else:
            options = {"name": init} if isinstance(init, str) else dict(_mapping(init))
        name = inits.resolve(options.pop("name", "torch"))
        declared = options.pop("forget_bias", None), options.pop("chrono", None)
        forget_bias = declared[0] if forget_bias is None else forget_bias
        chrono = declared[1] if chrono is None else chrono
        blocks = options.pop("blocks", None) or {}
        _check_options(name, options)
        for key, value in (("forget_bias", forget_bias), ("chrono", chrono)):
            if value is not None and not isinstance(value, int | float):
                raise TypeError(f"{key} must be a number, not {value!r}")
        if forget_bias is not None and chrono is not None:
            raise ValueError("forget_bias and chrono both set the forget bias: pass one of them")
        if chrono is not None and not chrono > 2:
            raise ValueError(f"chrono is T_max: it must be greater than 2, not {chrono}")
        return cls(name, options, forget_bias, chrono, blocks)

    def check(self, cell: GatedCell) -> None:
        """Raise an error if this initialisation does not fit a cell.

        Raises:
            ValueError: The cell lacks a parameter or a gate of `blocks`; forget bias or chrono is
                set, but no gate keeps the memory, or that gate has no bias; the init is "paper",
                but the cell declares no initialisation.
        """
        if self.name == "paper":
            self.of_paper(cell).check(cell)
            return
        for parameter, choice in self.blocks.items():
            names = [name for name, tensor in cell._parameters.items() if tensor is not None]
            if parameter not in names:
                raise ValueError(
                    f"{cell.name} has no parameter {parameter!r}: {nearest(parameter, names)}"
                )
            gates = cell.layout.rows(parameter)
            for gate, scheme in _by_gate(choice).items():
                if gate is not None and gate not in gates:
                    raise ValueError(
                        f"{cell.name} has no gate {gate!r} in {parameter}: {nearest(gate, gates)}"
                    )
                name, options = _scheme(scheme)
                if name == "paper":
                    raise ValueError(
                        f"{parameter}: 'paper' is the init of a whole cell, not of a block"
                    )
                _check_options(name, options)
        name = "forget_bias" if self.forget_bias is not None else "chrono"
        if self.forget_bias is None and self.chrono is None:
            return
        if not cell.keep:
            raise ValueError(f"{name}: no gate of {cell.name} is declared to keep its memory")
        for gate in cell.keep if self.chrono is None else {**cell.keep, **cell.write}:
            if not _biases(cell, gate):
                reason = "" if cell.bias else ": the cell was built with bias=False"
                raise ValueError(f"{name}: gate {gate!r} of {cell.name} has no bias{reason}")
        if clash := {"bias_ih", "bias_hh"} & {*self.blocks}:
            raise ValueError(f"{name} and blocks both set {', '.join(sorted(clash))}")

    def of_paper(self, cell: GatedCell) -> Init:
        """Return the initialisation of a cell's paper, with the overrides of this Init.

        Raises:
            ValueError: The cell declares no initialisation.
        """
        if not cell.paper_init:
            raise ValueError(f"init 'paper': no initialisation is declared for {cell.name}")
        declared = dict(cell.paper_init)
        if self.forget_bias is not None or self.chrono is not None:
            declared |= {"forget_bias": self.forget_bias, "chrono": self.chrono}
        blocks = {
            name: choice
            for name, choice in declared.get("blocks", {}).items()
            if cell._parameters.get(name, choice) is not None  # None: built without this bias
        }
        declared["blocks"] = {**blocks, **self.blocks}
        return Init.of(declared)

    @torch.no_grad()
    def __call__(self, cell: GatedCell) -> None:
        """Initialise a cell's parameters in place."""
        if self.name == "paper":
            self.of_paper(cell)(cell)
            return
        self.check(cell)
        scheme = inits[self.name]
        for name, parameter in cell._parameters.items():
            if parameter is None:
                continue
            if name in cell.extra:
                if cell.extra[name].init is not None:
                    cell.extra[name].start(cell, parameter)
                else:
                    role = scheme.vectors if parameter.dim() == 1 else scheme.inputs
                    self._fill(role, parameter, cell)
            elif name.startswith("bias"):
                self._fill(scheme.vectors, parameter, cell)
            else:
                role = scheme.inputs if name == "weight_ih" else self.name
                for gate in cell.layout.rows(name):
                    self._fill_gate(role, cell, name, gate)
        for name, choice in self.blocks.items():
            for only, override in _by_gate(choice).items():
                gates: list[str | None] = [only] if only else [*cell.layout.rows(name)]
                for block in gates or [None]:
                    self._fill_gate(override, cell, name, block)
        self._set_memory_biases(cell)

    def _fill_gate(self, role: Any, cell: GatedCell, name: str, gate: str | None) -> None:
        """Fill one gate's rows of a parameter, or a parameter without gates, head by head."""
        parameter = cell._parameters[name]
        assert parameter is not None
        block = parameter if gate is None else parameter[cell.layout.rows(name)[gate]]
        heads = cell.layout.blocks[name].heads if name in cell.layout.blocks else 1
        for head in block.chunk(heads):
            self._fill(role, head, cell)

    def _fill(self, role: Any, block: Tensor, cell: GatedCell) -> None:
        """Fill a block by a scheme; this Init's own scheme, by name alone, has its options."""
        name, options = _scheme(role)
        if name == self.name and isinstance(role, str):
            options = dict(self.options)
        inits[name].fill(block, cell.hidden_size, **options)

    def _set_memory_biases(self, cell: GatedCell) -> None:
        """Set the total biases of the gates that keep and write, by forget bias or chrono."""
        if self.forget_bias is None and self.chrono is None:
            return
        if self.chrono is None:
            value = torch.tensor(float(self.forget_bias or 0.0))
        else:
            first = cell.layout.gates[next(iter(cell.keep))]
            value = torch.empty(cell.width(first.width)).uniform_(1, self.chrono - 1).log_()
        for gate, sign in cell.keep.items():
            _set_total_bias(cell, gate, sign * value)
        if self.chrono is not None:
            for gate, sign in cell.write.items():
                _set_total_bias(cell, gate, -sign * value)


def _set_total_bias(cell: GatedCell, gate: str, value: Tensor) -> None:
    """Set a gate's bias_ih to a value and its bias_hh to 0, as the cell adds both."""
    first, *others = _biases(cell, gate)
    first.copy_(value.expand_as(first))
    for other in others:
        other.zero_()


def _biases(cell: GatedCell, gate: str) -> list[Tensor]:
    """Return a gate's biases, as views."""
    weights = cell.gate_weights()[gate]
    return [bias for bias in (weights.bias_ih, weights.bias_hh) if bias is not None]


def _by_gate(choice: Any) -> dict[str | None, Any]:
    """Return a parameter's override as a mapping from gate to scheme; the key None: all gates."""
    if isinstance(choice, str) or "name" in _mapping(choice):
        return {None: choice}
    return dict(choice)


def _scheme(role: Any) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of a scheme."""
    options = {"name": role} if isinstance(role, str) else dict(_mapping(role))
    if "name" not in options:
        raise TypeError(f"an init scheme must have a name: {role!r} has none")
    return inits.resolve(options.pop("name")), options


def _mapping(role: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and raise a TypeError for any other object."""
    if not isinstance(role, Mapping):
        raise TypeError(f"an init scheme must be a name or a mapping with a name, not {role!r}")
    return role


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise a TypeError for an option that a scheme does not have."""
    known = inits[name].options
    for option in options:
        if option not in known:
            hint = nearest(option, known) if known else "it has none"
            raise TypeError(f"init {name!r} has no option {option!r}: {hint}")
