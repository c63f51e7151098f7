"""Options of cells and tasks: constants that their user may choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cellzoo.names.registry import nearest


@dataclass(frozen=True)
class OptionSpec:
    """What `option` declares."""

    default: Any
    doc: str = ""
    choices: tuple[Any, ...] = ()


def option(default: Any, doc: str = "", choices: Sequence[Any] = ()) -> Any:
    """Declare an option in the body of a cell or task: `leak = option(0.9, "…")`.

    It is read as `self.leak`, set by keyword (`RNN(…, leak=0.5)`), and is a Hydra option
    (`cell.leak=0.5`). Its type is that of the default.
    """
    return OptionSpec(default, doc, tuple(choices))


def option_specs(cls: type) -> dict[str, OptionSpec]:
    """The options that a class and its bases declare, by name."""
    attributes: dict[str, Any] = {}
    for base in reversed(cls.__mro__):  # a subclass may set an option to a constant
        attributes |= vars(base)
    return {name: spec for name, spec in attributes.items() if isinstance(spec, OptionSpec)}


def resolve(cls: type, owner: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options' values: those given, else the defaults.

    Args:
        cls: the class that declares them.
        owner: what to call it in messages.
        given: values by name.

    Raises:
        TypeError: an unknown option (the nearest is named), or a value of another type.
        ValueError: a value that is not among the choices.
    """
    specs = option_specs(cls)
    for name in given:
        if name not in specs:
            hint = nearest(name, specs) if specs else "it has none"
            raise TypeError(f"{owner} has no option {name!r}: {hint}")
    resolved = {name: given.get(name, spec.default) for name, spec in specs.items()}
    for name, spec in specs.items():
        value, kind = resolved[name], type(spec.default)
        accepted = (int, float) if kind is float else kind
        if spec.default is not None and (
            not isinstance(value, accepted) or isinstance(value, bool) is not (kind is bool)
        ):
            raise TypeError(f"{owner}: {name} is of type {kind.__name__}, not {value!r}")
        if spec.choices and value not in spec.choices:
            choices = ", ".join(map(repr, spec.choices))
            raise ValueError(f"{owner}: {name} is one of {choices}, not {value!r}")
    return resolved
