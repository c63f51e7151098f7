"""Options of cells and tasks: constants that a user may choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cellzoo.names.registry import nearest


@dataclass(frozen=True)
class OptionSpec:
    """A declared option: its default value, its description and its permitted values."""

    default: Any
    doc: str = ""
    choices: tuple[Any, ...] = ()


def option(default: Any, doc: str = "", choices: Sequence[Any] = ()) -> Any:
    """Declare an option in the body of a cell or a task.

    The code reads it as `self.leak`. A user sets it by keyword (`RNN(…, leak=0.5)`) or as a Hydra
    override (`cell.leak=0.5`).

    Args:
        default: The default value. A value must have the type of the default; an int is accepted
            for a float, and any type where the default is None.
        doc: One line for `cellzoo cells NAME` and `cellzoo tasks NAME`.
        choices: The permitted values; empty: any value of that type.

    Example:
        >>> from cellzoo import RNN, GatedCell, option
        >>> class Leaky(GatedCell):
        ...     gates = ("n",)
        ...     leak: float = option(0.9, "the share of h that is kept")
        ...
        ...     def update(self, a, s):
        ...         return self.leak * s.h + (1 - self.leak) * a.n.tanh()
        >>> RNN(Leaky, 3, 4, leak=0.5)
        RNN(Leaky, 3, 4, leak=0.5)
    """
    return OptionSpec(default, doc, tuple(choices))


def option_specs(cls: type) -> dict[str, OptionSpec]:
    """Return the options that a class and its bases declare, by name."""
    attributes: dict[str, Any] = {}
    for base in reversed(cls.__mro__):  # a subclass may set an option to a constant
        attributes |= vars(base)
    return {name: spec for name, spec in attributes.items() if isinstance(spec, OptionSpec)}


def resolve(cls: type, owner: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every option of a class: the user's value, or the default.

    Args:
        cls: The class that declares the options.
        owner: The name of the class in messages.
        values: The user's values by name.

    Raises:
        TypeError: An unknown option (the message gives the nearest), or a value of another type.
        ValueError: A value that is not among the choices.
    """
    specs = option_specs(cls)
    for name in values:
        if name not in specs:
            hint = nearest(name, specs) if specs else "it has none"
            raise TypeError(f"{owner} has no option {name!r}: {hint}")
    resolved = {name: values.get(name, spec.default) for name, spec in specs.items()}
    for name, spec in specs.items():
        value, kind = resolved[name], type(spec.default)
        accepted = (int, float) if kind is float else kind
        if spec.default is not None and (
            not isinstance(value, accepted) or isinstance(value, bool) is not (kind is bool)
        ):
            raise TypeError(f"{owner}: {name} must be of type {kind.__name__}, not {value!r}")
        if spec.choices and value not in spec.choices:
            choices = ", ".join(map(repr, spec.choices))
            raise ValueError(f"{owner}: {name} must be one of {choices}, not {value!r}")
    return resolved
