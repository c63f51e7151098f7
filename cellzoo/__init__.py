"""cellzoo: a pluggable research framework for recurrent cell variants."""

from typing import TYPE_CHECKING, Any

from cellzoo import zoo  # noqa: F401  (registers the published cells)
from cellzoo.cells import Extra, Gate, GatedCell, State, build_cell, list_cells, register_cell
from cellzoo.names.options import option
from cellzoo.names.plugins import load_plugins
from cellzoo.names.registry import DuplicateNameError, Registry, UnknownNameError
from cellzoo.names.version import __version__ as __version__
from cellzoo.nn.convert import from_i2h_h2h
from cellzoo.nn.inits import Init, list_inits, register_init
from cellzoo.nn.rnn import RNN

if TYPE_CHECKING:
    from cellzoo.run.directory import load_run
    from cellzoo.tasks import Task, list_tasks, register_task


Registry.discover = load_plugins

__all__ = [
    "RNN",
    "DuplicateNameError",
    "Extra",
    "Gate",
    "GatedCell",
    "Init",
    "State",
    "Task",
    "UnknownNameError",
    "build_cell",
    "from_i2h_h2h",
    "list_cells",
    "list_inits",
    "list_tasks",
    "load_run",
    "option",
    "register_cell",
    "register_init",
    "register_task",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # Tasks require Lightning, a heavy import that most users of `RNN` do not need.
    if name in ("Task", "list_tasks", "register_task"):
        from cellzoo import tasks

        return getattr(tasks, name)
    if name == "load_run":
        from cellzoo.run.directory import load_run

        return load_run
    raise AttributeError(f"module 'cellzoo' has no attribute {name!r}")
