"""The interface of a cell, for the modules that the base class itself imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

from torch import Tensor

from cellzoo.cells.layout import Layout


class Cell(Protocol):
    """A cell, as its preparation, its purity check and engines use it.

    Declared parameters and options are attributes, too.
    """

    layout: Layout

    @property
    def name(self) -> str:
        """Return the registered name, or the class's."""

    def bind(
        self, parameters: Mapping[str, Any], buffers: Mapping[str, Any] | None = None, **fields: Any
    ) -> Self:
        """Return a shallow copy that reads these tensors as its parameters and buffers."""

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """Return the initial value of each state, (batch, width)."""

    def project_sequence(self, x: Tensor, dt: Tensor | None) -> dict[str, Tensor]:
        """Return the projections of a whole sequence by name."""

    def recurrent_weights(self) -> dict[str, Tensor]:
        """Return the recurrent weights by parameter name."""

    def update(self, a: Any, s: Any) -> Any:
        """Compute one step."""

    def __getattr__(self, name: str) -> Any: ...
