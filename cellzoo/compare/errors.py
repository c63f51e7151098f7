"""The errors of a comparison, one line each."""

from collections.abc import Iterable

from cellzoo.names.registry import nearest


class CompareError(ValueError):
    """A comparison is impossible; the message names the file or key and the remedy."""


def unknown(kind: str, name: str, known: Iterable[str]) -> CompareError:
    """Return the error for an unknown name; the message names the nearest known one."""
    return CompareError(f"no {kind} {name!r}; {nearest(name, known)}")
