"""`cellzoo check`: run the conformance suite over named cells or the cells of a file."""

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
from cellzoo.testing.subject import Subject, variants
from cellzoo.testing.suite import Outcome, Result, all_checks, run_checks

console = Console(highlight=False)
STYLES = {Outcome.PASSED: "green", Outcome.FAILED: "bold red", Outcome.NOT_CHECKED: "dim"}
SUMMARIES = {check.__name__: (check.__doc__ or "").splitlines()[0] for check in all_checks(True)}


def main(arguments: list[str]) -> int:
    """Check cells and return the exit status, 1 if a cell fails.

    Raises:
        UnknownNameError: No cell has a requested name.
        ValueError: A file registers no cell, or a reference file has no function for the cells.
    """
    parser = argparse.ArgumentParser(
        prog="cellzoo check",
        description="Run cells through the conformance suite: with their default options, and with "
        "every other choice of each option.",
    )
    parser.add_argument("cell", nargs="+", help="a name, a pattern, or a Python file of cells")
    parser.add_argument(
        "--compile", action="store_true", help="also compile each cell, in about 15 s"
    )
    parser.add_argument(
        "--reference", type=Path, metavar="FILE",
        help="a Python file with a function for each cell, named like the cell: one step in NumPy, "
        "written from the paper; see cellzoo.testing.reference",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    names = list(dict.fromkeys(name for argument in options.cell for name in _names(argument)))
    references = _references(options.reference, names) if options.reference else {}
    total: Counter[str] = Counter()
    for name in names:
        for variant in variants(name):
            subject = Subject(name, variant, references.get(name))
            total += _show(subject, list(run_checks(subject, all_checks(options.compile))))
    console.print(", ".join(f"{total[outcome]} {outcome}" for outcome in STYLES))
    return 1 if total[Outcome.FAILED] else 0


def _names(argument: str) -> Iterator[str]:
    """Yield the names of the cells that a name, a pattern or a file selects."""
    if not argument.endswith(".py"):
        names = cells.names(argument) if any(c in argument for c in "*?[") else [argument]
        if not names:
            raise ValueError(f"no cell matches {argument!r}")
        for name in names:
            cells[name]  # an unknown name raises with the nearest name
        yield from names
        return
    add_plugins([argument])
    path = Path(argument).expanduser().resolve()
    names = [name for name, cls in cells.contents().items() if plugin_source(cls) == path]
    if not names:
        raise ValueError(f"{argument} registers no cell: decorate a class by @register_cell(…)")
    yield from names


def _references(path: Path, names: list[str]) -> dict[str, Callable[..., Any]]:
    """Return the functions of a Python file that are named like the cells."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"reference {path}: there is no such Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    functions = {name: vars(module)[name] for name in names if callable(vars(module).get(name))}
    if not functions:
        raise ValueError(f"reference {path} has no function called {' or '.join(names)}")
    return functions


def _show(subject: Subject, results: list[Result]) -> Counter[str]:
    """Print a line for each check of a cell; return the counts of the outcomes."""
    paper = cells[str(subject.cell)].paper
    console.print(f"[bold]{escape(str(subject))}[/bold]  [dim]{escape(paper)}[/dim]")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for result in results:
        style = STYLES[result.outcome]
        message = escape(result.message) or f"[dim]{escape(SUMMARIES[result.check])}[/dim]"
        table.add_row(f"[{style}]{result.outcome}[/{style}]", result.check, message)
    console.print(table)
    console.print()
    return Counter(result.outcome for result in results)
