"""Registries of named objects that plugins can extend: cells, inits and tasks."""

from __future__ import annotations

import difflib
import fnmatch
import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar, Generic, TypeVar

T = TypeVar("T")


class UnknownNameError(LookupError):
    """A name under which nothing is registered; the message gives the nearest name."""


class DuplicateNameError(ValueError):
    """A name that is already taken."""


def closest(name: str, names: Iterable[str]) -> str | None:
    """Return the known name that is closest to an unknown one, or None.

    A known name that ends with the unknown one comes first.

    >>> closest("lr", ["optimizer.lr", "name"])
    'optimizer.lr'
    """
    known = sorted(names)
    endings = [candidate for candidate in known if candidate.endswith(f".{name}")]
    return next(iter(endings or difflib.get_close_matches(str(name), known, 1, 0.5)), None)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint for an unknown name: the closest known name, or all of them.

    >>> nearest("lsmt", ["gru", "lstm"])
    "did you mean 'lstm'?"
    >>> nearest("xyz", ["gru", "lstm"])
    'known: gru, lstm'
    """
    known = sorted(names)
    candidate = closest(name, known)
    return f"did you mean {candidate!r}?" if candidate else f"known: {', '.join(known) or 'none'}"


class Registry(Generic[T]):
    """A mapping from names to objects of one kind.

    Args:
        kind: The kind of object, for messages ("cell").

    Attributes:
        instances: Every registry.
        discover: A function that loads the plugins. It runs before the first lookup of a name,
            so that importing cellzoo does not import the code of others.

    Example:
        >>> colours = Registry("colour")
        >>> @colours.register("grey", deprecated=("gray",))
        ... def grey():
        ...     return 128
        >>> colours.names()
        ['grey']
        >>> colours["grey"]()
        128

    A deprecated name still works. Its first use warns: `colour 'gray' is deprecated: use 'grey'`.
    """

    instances: ClassVar[list[Registry[Any]]] = []
    discover: ClassVar[Callable[[], None] | None] = None

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}
        self._aliases: dict[str, str] = {}  # deprecated names to present ones
        self._warned: set[str] = set()
        Registry.instances.append(self)

    def register(self, name: str, deprecated: Collection[str] = ()) -> Callable[[T], T]:
        """Return a decorator that registers an object under `name`.

        Args:
            name: An identifier in snake case.
            deprecated: Former names. They still find the object, warn once and are not listed.

        Raises:
            DuplicateNameError: A name is taken, or is given twice.
            ValueError: A name is not an identifier in snake case.
        """
        names = [name, *deprecated]
        for label in names:
            if not (isinstance(label, str) and label.isidentifier() and label == label.lower()):
                raise ValueError(
                    f"a {self.kind}'s name is an identifier in snake case, not {label!r}"
                )

        def decorate(thing: T) -> T:
            again = name in self._things and _executed_again(self._things[name], thing)
            if len({*names}) < len(names):
                raise DuplicateNameError(f"{self.kind} {name!r}: a name is given twice in {names}")
            for label in names:
                owner = self._aliases.get(label, label)
                if owner in self._things and not (again and owner == name):
                    module = getattr(self._things[owner], "__module__", "another module")
                    message = f"{self.kind} {label!r} is already registered ({module})"
                    raise DuplicateNameError(message)
            self._things[name] = thing
            self._aliases |= dict.fromkeys(deprecated, name)
            return thing

        return decorate

    def register_class(
        self, name: str, base: type, deprecated: Collection[str] = ()
    ) -> Callable[[T], T]:
        """Return a decorator that registers a subclass of `base`, as `register` does.

        The class gets the name as its attribute `registered_name`.

        Raises:
            DuplicateNameError, ValueError: See `register`.
            TypeError: The decorated object is not a subclass of `base`.
        """

        def decorate(cls: T) -> T:
            if not (isinstance(cls, type) and issubclass(cls, base)):
                expected = f"a subclass of cellzoo.{base.__name__}"
                raise TypeError(f"{self.kind} {name!r} must be {expected}")
            self.register(name, deprecated)(cls)
            cls.registered_name = name  # type: ignore[attr-defined]
            return cls

        return decorate

    def __getitem__(self, name: str) -> T:
        """Return the object that is registered under a name, present or deprecated.

        Raises:
            UnknownNameError: No object has that name; the message gives the nearest.
        """
        try:
            return self._things[self.resolve(name)]
        except (KeyError, TypeError):
            hint = nearest(name, self._things)
            raise UnknownNameError(f"unknown {self.kind} {name!r}: {hint}") from None

    def resolve(self, name: str) -> str:
        """Return the present name of an object for a deprecated one; any other name as it is.

        The first use of a deprecated name in a process emits a FutureWarning.
        """
        _discover()
        if not isinstance(name, str) or name not in self._aliases:
            return name
        if name not in self._warned:
            self._warned.add(name)
            message = f"{self.kind} {name!r} is deprecated: use {self._aliases[name]!r}"
            warnings.warn(message, FutureWarning, stacklevel=2)
        return self._aliases[name]

    def names(self, pattern: str = "*") -> list[str]:
        """Return the present names that match a shell-style pattern, sorted."""
        _discover()
        return sorted(fnmatch.filter(self._things, pattern))

    def deprecated_names(self) -> dict[str, str]:
        """Return the deprecated names and their present ones."""
        _discover()
        return dict(self._aliases)

    def contents(self) -> dict[str, T]:
        """Return the objects registered so far, by present name."""
        return dict(self._things)

    def forget(self, names: Iterable[str]) -> None:
        """Remove objects, with their deprecated names."""
        for name in names:
            self._things.pop(name, None)
        self._aliases = {old: new for old, new in self._aliases.items() if new in self._things}

    @staticmethod
    def snapshot() -> Callable[[], None]:
        """Return a function that restores the present contents of every registry."""
        before = [(r, dict(r._things), dict(r._aliases)) for r in Registry.instances]

        def restore() -> None:
            for registry, things, aliases in before:
                registry._things, registry._aliases = dict(things), dict(aliases)

        return restore


def with_present_names(override: str) -> str:
    """Return an override with the present names of cells, inits and tasks for deprecated ones.

    The key of such an override is the kind of a registry: `cell=old_name,gru`.
    """
    key, equals, value = override.partition("=")
    for registry in Registry.instances:
        if registry.kind == key:
            value = ",".join(map(registry.resolve, value.split(",")))
    return key + equals + value


def _executed_again(old: Any, new: Any) -> bool:
    """Return whether a notebook or a console defines the same object again."""
    places = [
        (getattr(thing, "__module__", None), getattr(thing, "__qualname__", None))
        for thing in (old, new)
    ]
    return places[0] == places[1] and places[0][0] == "__main__"


def _discover() -> None:
    """Load the plugins, once; after a failure the next lookup loads them again."""
    discover, Registry.discover = Registry.discover, None
    if discover is not None:
        try:
            discover()
        except BaseException:
            Registry.discover = discover  # the next lookup must fail too, not miss the plugin
            raise
