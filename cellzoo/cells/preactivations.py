"""What an update sees of the projections, by gate."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor

from cellzoo.names.registry import nearest


class Part:
    """One side of the pre-activations: `part.all` at once, or `part.<gate>` by name."""

    def __init__(self, fused: Tensor | None, sizes: Mapping[str, int], named: Mapping[str, Tensor]):
        self._fused = fused
        self._sizes = sizes
        self._named: dict[str, Tensor] = dict(named)

    @property
    def all(self) -> Tensor:
        """All gates of this side, concatenated in declared order."""
        if self._fused is None:
            raise AttributeError("no gate has this part")
        return self._fused

    def __getattr__(self, name: str) -> Tensor:
        named, fused = self._named, self._fused
        if name not in named and name in self._sizes and fused is not None:
            # One split, whose gradient is one concatenation; slices would each zero-fill theirs.
            named.update(zip(self._sizes, fused.split(list(self._sizes.values()), -1), strict=True))
        try:
            return named[name]
        except KeyError:
            known = dict.fromkeys([*self._sizes, *named])
            raise AttributeError(f"no {name!r} here: {nearest(name, known)}") from None


class PreActivations:
    """What `update` sees of the projections: `a.f`, and its parts `a.x.f` and `a.h.f`.

    `a.x` comes from the input (bias_ih included) and holds what `project` added by name; `a.h`
    comes from the states (bias_hh included). `a.f` is the sum of what gate f has so far: for a
    late gate, whose product `update` makes itself, that is the part from the input.
    """

    def __init__(self, x: Part, h: Part) -> None:
        self.x = x
        self.h = h
        self._sum: Part | None = None

    @classmethod
    def of_sums(cls, sums: Tensor, x: Part, h_sizes: Mapping[str, int]) -> PreActivations:
        """All gates' sums, for an update that reads no part of them; `x` holds what else there is.

        Every gate has both parts, so that the sums are laid out like each of them.
        """
        made = cls(x, Part(None, h_sizes, {}))
        made._sum = Part(sums, h_sizes, {})
        return made

    def __getattr__(self, gate: str) -> Tensor:
        x, h = self.x, self.h
        if gate not in x._sizes and gate not in h._sizes:
            known = dict.fromkeys([*x._sizes, *h._sizes])
            raise AttributeError(f"no gate {gate!r}: {nearest(gate, known)}")
        if x._sizes == h._sizes:  # every gate has both: one addition for all of them
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
    """The named tuple of a cell's states."""

    def unknown(self: Any, name: str) -> Any:
        raise AttributeError(f"no state {name!r}: the states are {', '.join(names)}", name=name)

    fields = namedtuple("States", names)  # type: ignore[misc]
    return type("States", (fields,), {"__slots__": (), "__getattr__": unknown})
