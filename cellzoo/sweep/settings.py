"""Checks of the settings of launchers and searches."""

from typing import Any

from cellzoo.config.checks import ConfigError


def whole_number(key: str, value: Any, least: int = 1) -> int:
    """Return a setting that must be a whole number.

    Raises:
        ConfigError: it is not, or it is below `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key} must be a whole number from {least} on, not {value!r}")
    return value
