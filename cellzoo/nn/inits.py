"""Initialisation, by matrix and by named gate.

A scheme fills one block in place: one gate's rows of one matrix. `init="orthogonal"` gives every
gate's recurrent block to that scheme, and the other parameters to the schemes that it names as
its companions; `blocks` overrides any parameter or gate. Forget bias and chrono then set the
total bias of the gate that the cell declares to keep its memory.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cellzoo.cells.base import GatedCell
from cellzoo.names.registry import Registry, nearest


@dataclass(frozen=True)
class Scheme:
    """A registered scheme: how to fill a recurrent block, and which schemes fill the rest."""

    fill: Callable[..., None]
    inputs: str
    vectors: str

    @property
    def options(self) -> dict[str, Any]:
        """The scheme's options and their defaults: its keyword-only parameters."""
        parameters = inspect.signature(self.fill).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


inits: Registry[Scheme] = Registry("init")


def register_init(name: str, inputs: str | None = None, vectors: str = "zeros") -> Any:
    """Register an init scheme: `scheme(block, hidden_size, *, options…)` fills block in place.

    Args:
        name: what `init=` and `blocks` call it.
        inputs: the scheme of input matrices under `init=name`; None: this one too.
        vectors: the scheme of biases and of extra vectors that declare no value of their own.

    Raises:
        DuplicateNameError: the name is taken.
    """

    def decorate(fill: Callable[..., None]) -> Callable[..., None]:
        inits.register(name)(Scheme(fill, inputs or name, vectors))
        return fill

    return decorate


@register_init("torch", vectors="torch")
def torch_uniform(block: Tensor, hidden_size: int) -> None:
    """Uniform in ±1/√hidden_size, everything alike: what torch.nn does."""
    bound = 1 / math.sqrt(hidden_size)
    nn.init.uniform_(block, -bound, bound)


@register_init("glorot")
def glorot(block: Tensor, hidden_size: int, *, gain: float = 1.0) -> None:
    """Uniform in ±gain·√(6/(rows + columns)) of the gate's block (Glorot & Bengio 2010).

    A diagonal block, which has no fan, is uniform in ±gain/√hidden_size.
    """
    if block.dim() == 1:
        nn.init.uniform_(block, -gain / math.sqrt(hidden_size), gain / math.sqrt(hidden_size))
    else:
        nn.init.xavier_uniform_(block, gain)


@register_init("orthogonal", inputs="glorot")
def orthogonal(block: Tensor, hidden_size: int, *, gain: float = 1.0) -> None:
    """Each gate's recurrent block orthogonal by itself (Saxe et al. 2014, arXiv:1312.6120)."""
    if block.dim() == 1:
        nn.init.constant_(block, gain)
    else:
        nn.init.orthogonal_(block, gain)


@register_init("identity", inputs="glorot")
def identity(block: Tensor, hidden_size: int, *, gain: float = 1.0) -> None:
    """Each gate's recurrent block gain·I (Le, Jaitly, Hinton 2015, arXiv:1504.00941)."""
    if block.dim() == 1:
        nn.init.constant_(block, gain)
    else:
        nn.init.eye_(block)
        with torch.no_grad():
            block.mul_(gain)


@register_init("normal")
def normal(block: Tensor, hidden_size: int, *, std: float = 0.1) -> None:
    """Normal with mean 0 and standard deviation std."""
    nn.init.normal_(block, 0.0, std)


@register_init("zeros")
def zeros(block: Tensor, hidden_size: int) -> None:
    """All zero."""
    nn.init.zeros_(block)


@register_init("constant", vectors="constant")
def constant(block: Tensor, hidden_size: int, *, value: float = 1.0) -> None:
    """All one value."""
    nn.init.constant_(block, value)


@register_init("uniform")
def uniform(block: Tensor, hidden_size: int, *, low: float = -0.1, high: float = 0.1) -> None:
    """Uniform between low and high."""
    nn.init.uniform_(block, low, high)


@register_init("uniform_gate")
def uniform_gate(block: Tensor, hidden_size: int) -> None:
    """A bias whose gate is uniform in [1/H, 1 − 1/H] (Gu et al. 2020, arXiv:1910.09890)."""
    low = 1 / max(2, hidden_size)  # a single gate is 1/2, as are two
    nn.init.uniform_(block, low, 1 - low)
    with torch.no_grad():
        block.logit_()


@register_init("paper", inputs="torch", vectors="torch")
def paper(block: Tensor, hidden_size: int) -> None:
    """What the cell's own paper prescribes; what it leaves open is as `torch`."""
    torch_uniform(block, hidden_size)


def list_inits(pattern: str = "*") -> list[str]:
    """The names of the registered init schemes that match a shell-style pattern, sorted."""
    return inits.names(pattern)


@dataclass(frozen=True)
class Init:
    """How to initialise a cell.

    Attributes:
        name: the registered scheme.
        options: the scheme's.
        forget_bias: the total bias of the gate that keeps the memory, in the direction of keeping.
        chrono: T_max of the chrono initialisation (Tallec & Ollivier 2018, arXiv:1804.11188):
            forget bias log U(1, T_max − 1), and its negative for the gate that writes.
        blocks: overrides: a parameter's name to a scheme, or to {gate: scheme}; a scheme is a
            name or {"name": …, options…}.
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
        """An Init from what users write: a name, or a mapping with `name` and options.

        Raises:
            UnknownNameError: no scheme has that name.
            TypeError, ValueError: an unknown option; forget bias and chrono together; a T_max
                that is not greater than 2.
        """
        if isinstance(init, Init):
            given = {f: getattr(init, f) for f in ("forget_bias", "chrono", "blocks")}
            given |= {"name": init.name, **init.options}
        else:
            given = {"name": init} if isinstance(init, str) else dict(_mapping(init))
        name = given.pop("name", "torch")
        forget_bias = given.pop("forget_bias", None) if forget_bias is None else forget_bias
        chrono = given.pop("chrono", None) if chrono is None else chrono
        blocks = given.pop("blocks", None) or {}
        given = {key: value for key, value in given.items() if key not in ("forget_bias", "chrono")}
        _check_options(name, given)
        for key, value in (("forget_bias", forget_bias), ("chrono", chrono)):
            if value is not None and not isinstance(value, int | float):
                raise TypeError(f"{key} is a number, not {value!r}")
        if forget_bias is not None and chrono is not None:
            raise ValueError("forget_bias and chrono both set the forget bias: give one of them")
        if chrono is not None and not chrono > 2:
            raise ValueError(f"chrono is T_max, which must be greater than 2, not {chrono}")
        return cls(name, given, forget_bias, chrono, blocks)

    def check(self, cell: GatedCell) -> None:
        """Refuse what the cell has no place for.

        Raises:
            ValueError: a parameter or a gate that it lacks; a forget bias or chrono where no gate
                keeps its memory, or where it has no bias; "paper" for a cell that declares none.
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
                    raise ValueError(f"{parameter}: 'paper' is a whole cell's init, not a block's")
                _check_options(name, options)
        name = "forget_bias" if self.forget_bias is not None else "chrono"
        if self.forget_bias is None and self.chrono is None:
            return
        if not cell.keep:
            raise ValueError(f"{name}: no gate of {cell.name} is declared to keep its memory")
        for gate in cell.keep if self.chrono is None else {**cell.keep, **cell.write}:
            if not _biases(cell, gate):
                why = "" if cell.bias else ": it was built with bias=False"
                raise ValueError(f"{name}: gate {gate!r} of {cell.name} has no bias{why}")
        if clash := {"bias_ih", "bias_hh"} & {*self.blocks}:
            raise ValueError(f"{name} and blocks both set {', '.join(sorted(clash))}")

    def of_paper(self, cell: GatedCell) -> Init:
        """What `init="paper"` is for a cell; what was said beside it comes first.

        Raises:
            ValueError: the cell declares none.
        """
        if not cell.paper_init:
            raise ValueError(f"init 'paper': no initialisation is declared for {cell.name}")
        declared = dict(cell.paper_init)
        if self.forget_bias is not None or self.chrono is not None:
            declared |= {"forget_bias": self.forget_bias, "chrono": self.chrono}
        there = {
            name: choice
            for name, choice in declared.get("blocks", {}).items()
            if cell._parameters.get(name, choice) is not None  # None: built without this bias
        }
        declared["blocks"] = {**there, **self.blocks}
        return Init.of(declared)

    @torch.no_grad()
    def __call__(self, cell: GatedCell) -> None:
        """Initialise the cell's parameters in place."""
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
                for each in cell.layout.rows(name):
                    self._fill_gate(role, cell, name, each)
        for name, choice in self.blocks.items():
            for gate, override in _by_gate(choice).items():
                targets: list[str | None] = [gate] if gate else [*cell.layout.rows(name)]
                for target in targets or [None]:
                    self._fill_gate(override, cell, name, target)
        self._keep(cell)

    def _fill_gate(self, role: Any, cell: GatedCell, name: str, gate: str | None) -> None:
        parameter = cell._parameters[name]
        assert parameter is not None
        block = parameter if gate is None else parameter[cell.layout.rows(name)[gate]]
        heads = cell.layout.blocks[name].heads if name in cell.layout.blocks else 1
        for head in block.chunk(heads):
            self._fill(role, head, cell)

    def _fill(self, role: Any, block: Tensor, cell: GatedCell) -> None:
        name, options = _scheme(role)
        if name == self.name and isinstance(role, str):
            options = dict(self.options)
        inits[name].fill(block, cell.hidden_size, **options)

    def _keep(self, cell: GatedCell) -> None:
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
    """bias_ih carries the gate's bias and bias_hh is 0: they are added, so the total counts."""
    first, *others = _biases(cell, gate)
    first.copy_(value.expand_as(first))
    for other in others:
        other.zero_()


def _biases(cell: GatedCell, gate: str) -> list[Tensor]:
    weights = cell.gate_weights()[gate]
    return [bias for bias in (weights.bias_ih, weights.bias_hh) if bias is not None]


def _by_gate(choice: Any) -> dict[str | None, Any]:
    """A block's override as gate to scheme; None for all gates."""
    if isinstance(choice, str) or "name" in _mapping(choice):
        return {None: choice}
    return dict(choice)


def _scheme(role: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(role, str):
        return role, {}
    options = dict(_mapping(role))
    if "name" not in options:
        raise TypeError(f"an init scheme has a name: {role!r} has none")
    return options.pop("name"), options


def _mapping(role: Any) -> Mapping[str, Any]:
    if not isinstance(role, Mapping):
        raise TypeError(f"an init scheme is a name or a mapping with a name, not {role!r}")
    return role


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    known = inits[name].options
    for option in options:
        if option not in known:
            hint = nearest(option, known) if known else "it has none"
            raise TypeError(f"init {name!r} has no option {option!r}: {hint}")
