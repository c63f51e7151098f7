"""`cellzoo check`: the conformance suite over cells by name, or over what a file registers."""

from __future__ import annotations

import argparse
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellzoo.cells.registry import cells
from cellzoo.names.plugins import add_plugins, plugin_source
from cellzoo.testing.engines import compiles
from cellzoo.testing.subject import Subject, variants
from cellzoo.testing.suite import CHECKS, Result, run_checks

console = Console(highlight=False)
STYLES = {"passed": "green", "failed": "bold red", "not checked": "dim"}
# What each check checks, in its first line.
DOES = {c.__name__: (c.__doc__ or "").splitlines()[0] for c in (*CHECKS, compiles)}


def main(arguments: list[str]) -> int:
    """Check cells and return 1 if one of them fails.

    Raises:
        UnknownNameError: no cell has that name.
        ValueError: a file registers no cell; a reference file has none for the cells checked.
    """
    parser = argparse.ArgumentParser(
        prog="cellzoo check",
        description="Run cells through the conformance suite: with their default options, and with "
        "every other choice of each option.",
    )
    parser.add_argument("cell", nargs="+", help="a name, a pattern, or a Python file of cells")
    parser.add_argument("--compile", action="store_true", help="also compile: 15 s a cell")
    parser.add_argument(
        "--reference", type=Path, metavar="FILE",
        help="a Python file with a function for each cell, of its name: one step in NumPy, written "
        "from the paper; see cellzoo.testing.reference",
    )  # fmt: skip
    said = parser.parse_args(arguments)
    names = list(dict.fromkeys(name for given in said.cell for name in _names(given)))
    references = _references(said.reference, names) if said.reference else {}
    checks = (*CHECKS, *((compiles,) if said.compile else ()))
    total: Counter[str] = Counter()
    for name in names:
        for options in variants(name):
            subject = Subject(name, options, references.get(name))
            total += _show(subject, list(run_checks(subject, checks)))
    console.print(", ".join(f"{total[outcome]} {outcome}" for outcome in STYLES))
    return 1 if total["failed"] else 0


def _names(given: str) -> Iterator[str]:
    """The cells that a name, a pattern or a file stands for."""
    if not given.endswith(".py"):
        names = cells.names(given) if any(c in given for c in "*?[") else [given]
        if not names:
            raise ValueError(f"no cell matches {given!r}")
        for name in names:
            cells[name]  # raises, naming the nearest
        yield from names
        return
    add_plugins([given])
    path = Path(given).expanduser().resolve()
    found = [name for name, cls in cells.contents().items() if plugin_source(cls) == path]
    if not found:
        raise ValueError(f"{given} registers no cell: decorate a class by @register_cell(…)")
    yield from found


def _references(path: Path, names: list[str]) -> dict[str, Callable[..., Any]]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"reference {path}: there is no such Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {name: getattr(module, name) for name in names if callable(getattr(module, name, None))}
    if not found:
        raise ValueError(f"reference {path} has no function called {' or '.join(names)}")
    return found


def _show(subject: Subject, found: list[Result]) -> Counter[str]:
    """A line for each check of a cell; returns how many came out how."""
    paper = cells[str(subject.cell)].paper
    console.print(f"[bold]{escape(str(subject))}[/bold]  [dim]{escape(paper)}[/dim]")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for result in found:
        style = STYLES[result.outcome]
        message = escape(result.message) or f"[dim]{escape(DOES[result.check])}[/dim]"
        table.add_row(f"[{style}]{result.outcome}[/{style}]", result.check, message)
    console.print(table)
    console.print()
    return Counter(result.outcome for result in found)
