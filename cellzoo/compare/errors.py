"""What is wrong with a comparison, said in one line."""

from __future__ import annotations

from collections.abc import Iterable

from cellzoo.names.registry import nearest


class CompareError(ValueError):
    """A comparison that cannot be made; the message names the file or key and what to do."""


def unknown(kind: str, name: str, known: Iterable[str]) -> CompareError:
    """The error for a name that does not exist: names the nearest one that does."""
    return CompareError(f"no {kind} {name!r}; {nearest(name, known)}")
