"""`cellzoo cells` and `cellzoo tasks`: what is registered, and what each is."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellzoo.cells.base import GatedCell, build_cell, cell_class, cells
from cellzoo.options import OptionSpec, option_specs

console = Console(highlight=False)


def show_cells(arguments: list[str]) -> int:
    """List the cells that match a pattern, or show one cell's equations and options."""
    parser = argparse.ArgumentParser(
        prog="cellzoo cells", description="The registered cells, or one's equations and options."
    )
    parser.add_argument("name", nargs="?", default="*", help="a cell, or a pattern like '*lstm*'")
    parser.add_argument("--input-size", type=int, default=64, metavar="I")
    parser.add_argument("--hidden-size", type=int, default=64, metavar="H")
    said = parser.parse_args(arguments)
    sizes = said.input_size, said.hidden_size
    if not any(character in said.name for character in "*?["):
        _show_cell(cells[said.name], *sizes)
        return 0
    table = Table(
        "name",
        "paper",
        "gates",
        "states",
        box=None,
        pad_edge=False,
        caption=f"parameters of one layer with input_size {sizes[0]}, hidden_size {sizes[1]}",
        caption_justify="left",
    )
    table.add_column("parameters", justify="right")
    for name in cells.names(said.name):
        cell = build_cell(name, *sizes)
        gates, states = " ".join(cell.layout.gates), " ".join(cell.layout.states)
        table.add_row(name, escape(cell.paper), gates, states, f"{_count(cell):,}")
    console.print(table)
    return 0


def show_tasks(arguments: list[str]) -> int:
    """List the tasks, or show what one asks and its options."""
    from cellzoo.tasks import tasks  # brings in Lightning

    parser = argparse.ArgumentParser(
        prog="cellzoo tasks", description="The registered tasks, or what one asks and its options."
    )
    parser.add_argument("name", nargs="?", default="*", help="a task, or a pattern")
    said = parser.parse_args(arguments)
    if not any(character in said.name for character in "*?["):
        task = tasks[said.name]
        console.print(f"[bold]{said.name}[/bold]\n", _text(task), sep="\n")
        console.print(f"\nmonitors: {task.monitor} ({task.mode})")
        _print_options(option_specs(task))
        _print_place(task)
        return 0
    table = Table("name", "what", "monitors", box=None, pad_edge=False)
    for name in tasks.names(said.name):
        task = tasks[name]
        what = _text(task).splitlines()[0]
        table.add_row(name, escape(what), f"{task.monitor} ({task.mode})")
    console.print(table)
    return 0


def _show_cell(cls: type[GatedCell], input_size: int, hidden_size: int) -> None:
    cell = cell_class(cls)(input_size, hidden_size)
    console.print(f"[bold]{cell.name}[/bold]  {escape(cell.paper)}\n")
    console.print(escape(_text(cls)), soft_wrap=True)
    console.print(f"\ngates (rows of the fused weights)  {' '.join(cell.layout.gates)}")
    console.print(f"states  {' '.join(cell.layout.states)}")
    for gate, sign in cell.keep.items():
        console.print(f"keeps its memory by  {gate if sign > 0 else '1 − ' + gate}")
    console.print(f"\nparameters with input_size {input_size}, hidden_size {hidden_size}:")
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, parameter in cell.named_parameters():
        table.add_row("  " + name, str(tuple(parameter.shape)), f"{parameter.numel():,}")
    table.add_row("  all", "", f"{_count(cell):,}")
    console.print(table)
    _print_options(option_specs(cls))
    _print_place(cls)


def _print_options(specs: Mapping[str, OptionSpec]) -> None:
    console.print("\noptions:" if specs else "\nno options")
    for name, spec in specs.items():
        choices = f" ({', '.join(map(str, spec.choices))})" if spec.choices else ""
        console.print(escape(f"  {name}={spec.default}  {spec.doc}{choices}"), soft_wrap=True)


def _print_place(thing: Any) -> None:
    file, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    console.print(f"\n{Path(file or '?')}:{line}", soft_wrap=True)


def _text(thing: Any) -> str:
    return inspect.getdoc(thing) or "(no docstring)"


def _count(cell: GatedCell) -> int:
    return sum(parameter.numel() for parameter in cell.parameters())
