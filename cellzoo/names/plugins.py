"""Plugins: cells, inits and tasks from files, modules and installed packages of others."""

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
    """A plugin that is missing, that raises, or that registers a taken name."""


def load_plugin(plugin: str) -> ModuleType:
    """Import a plugin once.

    Args:
        plugin: The path of a Python file, or the name of a module.

    Raises:
        PluginError: The plugin is missing, or its code raises (by registering a taken name, for
            example). Nothing that it registered before the error stays.
    """
    key = _absolute(plugin)
    if key in _loaded:
        return _loaded[key]
    if _is_file(plugin) and not Path(key).is_file():
        path = Path(plugin).expanduser()
        neighbours = [str(neighbour) for neighbour in path.parent.glob("*.py")]
        hint = nearest(str(path), neighbours) if neighbours else "that folder holds no Python file"
        raise PluginError(f"plugin {plugin} does not exist: {hint}")
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
    """Import the plugins that CELLZOO_PLUGINS lists and those of installed packages.

    The variable holds files or modules, separated as in PATH. A package offers plugins in the
    entry-point group `cellzoo.cells`.

    Raises:
        PluginError: A plugin is missing or raises.
    """
    for plugin in listed_plugins():
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


def listed_plugins() -> list[str]:
    """Return the plugins that the environment variable CELLZOO_PLUGINS lists."""
    return [plugin for plugin in os.environ.get(VARIABLE, "").split(os.pathsep) if plugin]


def add_plugins(plugins: list[str]) -> None:
    """Import plugins and list them in CELLZOO_PLUGINS, for every process started from here."""
    listed = listed_plugins()
    for plugin in plugins:
        load_plugin(plugin)
        if _absolute(plugin) not in listed:
            listed.append(_absolute(plugin))
    if listed:
        os.environ[VARIABLE] = os.pathsep.join(listed)


@contextmanager
def only_plugins(files: Mapping[str, Path]) -> Iterator[None]:
    """Register cellzoo's own objects and those of some files alone, inside a `with` block.

    Args:
        files: Paths by the hash of their code, so that a plugin with two copies is imported once.
    """
    restore = Registry.snapshot()
    try:
        for registry in Registry.instances:
            things = registry.contents().items()
            registry.forget(n for n, t in things if plugin_source(getattr(t, "fill", t)))
        for file in files.values():
            _import_file(file)
        yield
    finally:
        restore()


def _is_file(plugin: str) -> bool:
    return plugin.endswith(".py") or os.sep in plugin


def _absolute(plugin: str) -> str:
    """Return a plugin as any process finds it: a file's absolute path, or a module's name."""
    return str(Path(plugin).expanduser().resolve()) if _is_file(plugin) else plugin


def plugin_source(thing: object) -> Path | None:
    """Return the source file of a plugin's class or function; None for cellzoo's own.

    A definition in a console has no source file either.
    """
    module = inspect.getmodule(thing)
    if module is None or module.__name__.split(".")[0] == "cellzoo":
        return None
    if not hasattr(module, "__file__"):  # a console's `__main__` has no file
        return None
    file = inspect.getsourcefile(module)
    return Path(file) if file else None


def code_hash(path: Path) -> str:
    """Return the sha256 of a source file's code, which ignores comments and layout."""
    return hashlib.sha256(ast.dump(ast.parse(path.read_bytes())).encode()).hexdigest()


def _import_file(path: Path) -> ModuleType:
    """Import a Python file as a module that is named after its whole path."""
    # Two plugins called cell.py must not be one module.
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
    """Restore the registries where a plugin fails half-way."""
    restore = Registry.snapshot()
    try:
        yield
    except BaseException:
        restore()
        raise


def _describe(error: Exception) -> str:
    """Return an error's type, first line and place: the last frame that is not importlib's."""
    place = ""
    if isinstance(error, SyntaxError):
        place = f" (line {error.lineno})"
    else:
        trace = error.__traceback__
        while trace is not None:
            if "importlib" not in trace.tb_frame.f_code.co_filename:
                place = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
            trace = trace.tb_next
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}{place}"
