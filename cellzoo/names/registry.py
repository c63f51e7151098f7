"""Named things that anybody can add to: cells, inits and tasks."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Generic, TypeVar

T = TypeVar("T")


class UnknownNameError(LookupError):
    """A name that nothing was registered under; the message names the nearest."""


class DuplicateNameError(ValueError):
    """A name that is already taken."""


def closest(name: str, names: Iterable[str]) -> str | None:
    """The known name that an unknown one was meant for: `optimizer.lr` for lr; None if none is."""
    known = sorted(names)
    endings = [each for each in known if each.endswith(f".{name}")]
    return next(iter(endings or difflib.get_close_matches(str(name), known, 1, 0.5)), None)


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known one, else all of them."""
    known = sorted(names)
    meant = closest(name, known)
    return f"did you mean {meant!r}?" if meant else f"known: {', '.join(known) or 'none'}"


class Registry(Generic[T]):
    """Names to things of one kind.

    Args:
        kind: what the things are, for messages ("cell").

    Attributes:
        instances: every registry.
        discover: brings in what is registered elsewhere (plugins); called before the first name
            is looked up, so that importing cellzoo does not import other people's code.
    """

    instances: ClassVar[list[Registry[Any]]] = []
    discover: ClassVar[Callable[[], None] | None] = None

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}
        Registry.instances.append(self)

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that puts what it decorates under `name`.

        Raises:
            DuplicateNameError: the name is taken.
            ValueError: the name is not an identifier in snake case.
        """
        if not (isinstance(name, str) and name.isidentifier() and name == name.lower()):
            raise ValueError(f"a {self.kind}'s name is an identifier in snake case, not {name!r}")

        def decorate(thing: T) -> T:
            if name in self._things and not _executed_again(self._things[name], thing):
                taken_by = getattr(self._things[name], "__module__", "another module")
                raise DuplicateNameError(f"{self.kind} {name!r} is already registered ({taken_by})")
            self._things[name] = thing
            return thing

        return decorate

    def register_class(self, name: str, base: type) -> Callable[[T], T]:
        """As `register`, for classes: they know their name, as `registered_name`.

        Raises:
            DuplicateNameError, ValueError: as for `register`.
            TypeError: what is decorated is no subclass of `base`.
        """

        def decorate(cls: T) -> T:
            if not (isinstance(cls, type) and issubclass(cls, base)):
                what = f"a subclass of cellzoo.{base.__name__}"
                raise TypeError(f"{self.kind} {name!r} must be {what}")
            self.register(name)(cls)
            cls.registered_name = name  # type: ignore[attr-defined]
            return cls

        return decorate

    def __getitem__(self, name: str) -> T:
        _discover()
        try:
            return self._things[name]
        except (KeyError, TypeError):
            hint = nearest(name, self._things)
            raise UnknownNameError(f"unknown {self.kind} {name!r}: {hint}") from None

    def names(self, pattern: str = "*") -> list[str]:
        """The registered names that match a shell-style pattern, sorted."""
        _discover()
        return sorted(fnmatch.filter(self._things, pattern))

    def contents(self) -> dict[str, T]:
        """What is registered so far, by name."""
        return dict(self._things)

    def restore(self, things: dict[str, T]) -> None:
        """Have exactly these registered, as `contents` gave them."""
        self._things = dict(things)

    def forget(self, names: Iterable[str]) -> None:
        """Take names out again."""
        for name in names:
            self._things.pop(name, None)


def _executed_again(old: Any, new: Any) -> bool:
    """Whether a notebook's cell, or a script in a console, defines the same thing anew."""
    places = [
        (getattr(each, "__module__", None), getattr(each, "__qualname__", None))
        for each in (old, new)
    ]
    return places[0] == places[1] and places[0][0] == "__main__"


def _discover() -> None:
    discover, Registry.discover = Registry.discover, None
    if discover is not None:
        try:
            discover()
        except BaseException:
            Registry.discover = discover  # a plugin that failed fails again, not silently
            raise
