"""Other people's cells, inits and tasks: files, modules and installed packages."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from cellzoo.names.registry import Registry, nearest

VARIABLE = "CELLZOO_PLUGINS"
GROUP = "cellzoo.cells"

_loaded: dict[str, ModuleType] = {}


class PluginError(ImportError):
    """A plugin that is missing, raises, or registers a name that is taken."""


def load_plugin(plugin: str) -> ModuleType:
    """Import a plugin, a Python file or a module's name, once.

    Raises:
        PluginError: it is missing, or its code raises (a name that is taken, for one).
    """
    key = _absolute(plugin)
    if key in _loaded:
        return _loaded[key]
    if _is_file(plugin) and not Path(key).is_file():
        path = Path(plugin).expanduser()
        neighbours = [str(each) for each in path.parent.glob("*.py")]
        hint = nearest(str(path), neighbours) if neighbours else "that folder holds no Python file"
        raise PluginError(f"plugin {plugin} is not there: {hint}")
    with _all_or_nothing():
        try:
            module = (
                _import_file(Path(key)) if _is_file(plugin) else importlib.import_module(plugin)
            )
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name == plugin.split(".")[0]:
                raise PluginError(f"plugin {plugin}: no such file or module") from error
            raise PluginError(f"plugin {plugin}: {_describe(error)}") from error
    _loaded[key] = module
    return module


def load_plugins() -> None:
    """Import what CELLZOO_PLUGINS lists and what installed packages offer.

    The variable holds files or modules, separated like PATH.
    """
    for plugin in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        load_plugin(plugin)
    for entry in entry_points(group=GROUP):
        with _all_or_nothing():
            try:
                entry.load()
            except Exception as error:
                package = entry.dist.name if entry.dist else entry.value
                raise PluginError(
                    f"plugin {entry.name} of {package}: {_describe(error)}"
                ) from error


def announce(plugins: list[str]) -> None:
    """Put plugins on CELLZOO_PLUGINS, so that they reach every process started from here."""
    known = [each for each in os.environ.get(VARIABLE, "").split(os.pathsep) if each]
    for plugin in plugins:
        load_plugin(plugin)
        if _absolute(plugin) not in known:
            known.append(_absolute(plugin))
    if known:
        os.environ[VARIABLE] = os.pathsep.join(known)


@contextmanager
def only(files: Mapping[str, Path]) -> Iterator[None]:
    """For a while, cellzoo's own things and those of these files alone are registered.

    Args:
        files: by the hash of their code, so that one that was kept twice is imported once.
    """
    before = [(registry, registry.contents()) for registry in Registry.instances]
    try:
        for registry, things in before:
            others = (n for n, t in things.items() if source_of(getattr(t, "fill", t)) is not None)
            registry.forget(list(others))
        for file in files.values():
            _import_file(file)
        yield
    finally:
        for registry, things in before:
            registry.restore(things)


def _is_file(plugin: str) -> bool:
    return plugin.endswith(".py") or os.sep in plugin


def _absolute(plugin: str) -> str:
    """A plugin as every process finds it: a file's whole path, or a module's name."""
    return str(Path(plugin).expanduser().resolve()) if _is_file(plugin) else plugin


def source_of(thing: object) -> Path | None:
    """The file of a class or function that is not cellzoo's own; None for cellzoo's."""
    module = inspect.getmodule(thing)
    if module is None or module.__name__.split(".")[0] == "cellzoo":
        return None
    file = inspect.getsourcefile(module)
    return Path(file) if file else None


def code_hash(path: Path) -> str:
    """The sha256 of a source file's code: comments and layout change nothing."""
    return hashlib.sha256(ast.dump(ast.parse(path.read_bytes())).encode()).hexdigest()


def _import_file(path: Path) -> ModuleType:
    # A name of its own: two plugins called cell.py must not be one module.
    name = f"cellzoo_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _all_or_nothing() -> Iterator[None]:
    """A plugin that fails half-way leaves nothing registered."""
    before = [(registry, registry.contents()) for registry in Registry.instances]
    try:
        yield
    except BaseException:
        for registry, things in before:
            registry.restore(things)
        raise


def _describe(error: Exception) -> str:
    where = ""
    if isinstance(error, SyntaxError):
        where = f" (line {error.lineno})"
    else:
        trace = error.__traceback__
        while trace is not None:
            if "importlib" not in trace.tb_frame.f_code.co_filename:
                where = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
            trace = trace.tb_next
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}{where}"
