"""What is wrong with a comparison, said in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CompareError(ValueError):
    """A comparison that cannot be made; the message names the file or key and what to do."""


def unknown(kind: str, name: str, known: Iterable[str]) -> CompareError:
    """The error for a name that does not exist: names the nearest one that does."""
    known = sorted(known)
    nearest = [each for each in known if each.endswith(f".{name}")]  # lr for optimizer.lr
    nearest = nearest or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
    return CompareError(f"no {kind} {name!r}; {hint}")
