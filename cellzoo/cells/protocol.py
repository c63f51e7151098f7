"""The interface of a cell, for the modules that the base class itself imports."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

from torch import Tensor

from cellzoo.cells.layout import Layout


class Cell(Protocol):
    """A cell, as its preparation, its purity check and the engines use it.

    Declared parameters, options and the other methods of `GatedCell` are attributes, too.
    """

    layout: Layout

    def bind(
        self, parameters: Mapping[str, Any], buffers: Mapping[str, Any] | None = None, **fields: Any
    ) -> Self:
        """Return a shallow copy that reads these tensors as its parameters and buffers."""

    def project_sequence(self, x: Tensor, dt: Tensor | None) -> dict[str, Tensor]:
        """Return the projections of a whole sequence by name."""

    def update(self, a: Any, s: Any) -> Any:
        """Compute one step."""

    def __getattr__(self, name: str) -> Any: ...
