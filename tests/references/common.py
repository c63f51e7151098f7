"""What the references share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

SOURCES = ("paper", "author's code", "secondary source", "memory")


@dataclass(frozen=True)
class Reference:
    """A reference: its step, what it was written from, and how many parameters it has.

    Attributes:
        step: see the package's docstring.
        source: one of SOURCES.
        parameters: from I and H to the number of parameters, biases as cellzoo has them.
        variants: the cell's options that it is compared under.
        sizes: the (I, H) that it is compared at.
    """

    step: Callable[..., Any]
    source: str
    parameters: Callable[[int, int], int]
    variants: tuple[dict[str, Any], ...]
    sizes: tuple[tuple[int, int], ...]


REFERENCES: dict[str, Reference] = {}


def reference(
    source: str,
    parameters: Callable[[int, int], int],
    variants: tuple[dict[str, Any], ...] = ({},),
    sizes: tuple[tuple[int, int], ...] = ((1, 1), (3, 2), (2, 5), (4, 4)),
) -> Any:
    """Make a function the reference of the cell of its name; see `Reference`."""
    assert source in SOURCES

    def decorate(step: Any) -> Any:
        assert step.__name__ not in REFERENCES
        REFERENCES[step.__name__] = Reference(step, source, parameters, variants, sizes)
        return step

    return decorate


def f64(a) -> np.ndarray:
    """Return ``a`` as a float64 array (complex128 if it is complex)."""
    a = np.asarray(a)
    return a.astype(np.complex128 if np.iscomplexobj(a) else np.float64)


def sigmoid(a: np.ndarray) -> np.ndarray:
    """Logistic sigmoid 1 / (1 + exp(-a)), written so that it does not overflow."""
    return np.exp(-np.logaddexp(0.0, -a))


def from_input(gate: str, x, W: dict, b: dict) -> np.ndarray:
    """Return W x + b_input of one gate."""
    return f64(x) @ f64(W[gate]).T + f64(b[gate][0])


def from_hidden(gate: str, h, U: dict, b: dict) -> np.ndarray:
    """Return U h + b_recurrent of one gate."""
    return f64(h) @ f64(U[gate]).T + f64(b[gate][1])


def standardise(a: np.ndarray, eps: float) -> np.ndarray:
    """Subtract the mean over the last axis and divide by sqrt(biased variance + eps)."""
    centred = a - a.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps)
