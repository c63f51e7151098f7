"""The pre-activations that an update reads, by gate."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor

from cellzoo.names.registry import nearest


class Part:
    """One side of the pre-activations: `part.all` at once, or `part.<gate>` by name.

    Args:
        fused: all gates, (…, rows), in declared order; None: no gate has this part.
        sizes: the rows of each gate.
        named: further tensors by name, and gates that are split already.
    """

    def __init__(self, fused: Tensor | None, sizes: Mapping[str, int], named: Mapping[str, Tensor]):
        self._fused = fused
        self._sizes = sizes
        self._named: dict[str, Tensor] = dict(named)

    @classmethod
    def of_x(cls, projected: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Part:
        """Return the part from the input: a projection by name, its fused gates as "all"."""
        named = {name: tensor for name, tensor in projected.items() if name != "all"}
        return cls(projected.get("all"), sizes, named)

    @property
    def all(self) -> Tensor:
        """Return all gates of this side, concatenated in declared order."""
        if self._fused is None:
            raise AttributeError("no gate has this part")
        return self._fused

    def __getattr__(self, name: str) -> Tensor:
        named, fused = self._named, self._fused
        if name not in named and name in self._sizes and fused is not None:
            # The gradient of one split is one concatenation; each slice would zero-fill its own.
            named.update(zip(self._sizes, fused.split(list(self._sizes.values()), -1), strict=True))
        try:
            return named[name]
        except KeyError:
            known = dict.fromkeys([*self._sizes, *named])
            raise AttributeError(f"no {name!r} here: {nearest(name, known)}") from None


class PreActivations:
    """The pre-activations of one step: `a.f`, and its parts `a.x.f` and `a.h.f`.

    `a.x` comes from the input (bias_ih included) and holds the tensors that `project` names;
    `a.h` comes from the states (bias_hh included). `a.f` is the sum of both parts of gate f. A
    late gate has the part from the input only: `update` makes the other product itself.
    """

    def __init__(self, x: Part, h: Part) -> None:
        self.x = x
        self.h = h
        self._sum: Part | None = None

    @classmethod
    def of_sums(cls, sums: Tensor, x: Part, h_sizes: Mapping[str, int]) -> PreActivations:
        """Return the sums of all gates, for an update that reads neither part by itself.

        Args:
            sums: (…, rows). Every gate has both parts, so the sums are laid out like each part.
            x: the further tensors that `project` names.
            h_sizes: the rows of each gate.
        """
        a = cls(x, Part(None, h_sizes, {}))
        a._sum = Part(sums, h_sizes, {})
        return a

    def __getattr__(self, gate: str) -> Tensor:
        x, h = self.x, self.h
        if gate not in x._sizes and gate not in h._sizes:
            known = dict.fromkeys([*x._sizes, *h._sizes])
            raise AttributeError(f"no gate {gate!r}: {nearest(gate, known)}")
        if x._sizes == h._sizes:  # every gate has both parts: one addition serves all
            if self._sum is None:
                self._sum = Part(x.all + h.all, x._sizes, {})
            return getattr(self._sum, gate)
        if gate in x._sizes and gate in h._sizes:
            return getattr(x, gate) + getattr(h, gate)
        if gate in x._sizes:
            return getattr(x, gate)
        return getattr(h, gate)


@cache
def states_type(names: tuple[str, ...]) -> Any:
    """Return the named tuple type of a cell's states."""

    def unknown(self: Any, name: str) -> Any:
        raise AttributeError(f"no state {name!r}: the states are {', '.join(names)}", name=name)

    fields = namedtuple("States", names)  # type: ignore[misc]
    return type("States", (fields,), {"__slots__": (), "__getattr__": unknown})
