"""What launchers and searches check of their settings, and make of them."""

from __future__ import annotations

from typing import Any

from cellzoo.config.compose import ConfigError


def whole_number(key: str, value: Any, least: int = 1) -> int:
    """A setting that is a whole number.

    Raises:
        ConfigError: it is not, or too small.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key} must be a whole number from {least} on, not {value!r}")
    return value


def retries(value: Any) -> int:
    """How often what a machine did to a job is tried again.

    Raises:
        ConfigError: no whole number from 0 on.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"launcher.retries must be 0 or more, not {value!r}")
    return value


def thread_environment(number: int) -> dict[str, str]:
    """An environment in which a process has so many threads."""
    return {f"{library}_NUM_THREADS": str(number) for library in ("OMP", "MKL", "OPENBLAS")}
