"""`cellzoo cells` and `cellzoo tasks`: the registered cells and tasks, in a list or one by one."""

import argparse
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellzoo.cells.base import GatedCell
from cellzoo.cells.prepared import PreparedCell
from cellzoo.cells.registry import build_cell, cell_class, cells
from cellzoo.names.options import OptionSpec, option_specs

console = Console(highlight=False)

HEADER = ("name", "paper", "gates", "states", "products", "parameters")
GAP = 2  # characters between columns
MINIMUM = {"paper": 10, "gates": 11, "states": 8}  # the widths in a narrow terminal
# The sources of a reference that make a cell verified.
VERIFIED = ("paper", "author's code")
UNCHECKED = "not checked against a paper"


def show_cells(arguments: list[str]) -> int:
    """List the cells that match a pattern, or show one cell's equations and options.

    Args:
        arguments: the command line.

    Returns:
        The exit status, 0.
    """
    parser = argparse.ArgumentParser(
        prog="cellzoo cells",
        description="List the registered cells, or show the equations and options of one.",
    )
    parser.add_argument(
        "name", nargs="?", default="*", help="a cell, or a pattern such as '*lstm*'"
    )
    parser.add_argument("--input-size", type=int, default=64, metavar="I")
    parser.add_argument("--hidden-size", type=int, default=64, metavar="H")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    sizes = options.input_size, options.hidden_size
    if not any(character in options.name for character in "*?["):
        _show_cell(cells[options.name], *sizes)
        return 0
    # In eval mode, since a batch norm in training mode requires more than one sequence.
    listed = [build_cell(name, *sizes).eval() for name in cells.names(options.name)]
    caption = f"products: matrices that a step applies to states; parameters: of one layer with " \
              f"input_size {sizes[0]}, hidden_size {sizes[1]}"  # fmt: skip
    if options.markdown:
        _print_markdown(listed, caption)
        return 0
    _print_rows([_row(cell) for cell in listed], caption)
    console.print("\n" + "\n".join(_verified(listed)), soft_wrap=True)
    return 0


def _print_rows(rows: list[list[str]], caption: str) -> None:
    """Print one line for each cell; a narrow terminal cuts papers first, then gates and states."""
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    table = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    excess = sum(widths) + GAP * (len(HEADER) - 1) - console.width
    for place, heading in enumerate(HEADER):
        if heading in MINIMUM:
            cut = min(max(excess, 0), max(widths[place] - MINIMUM[heading], 0))
            widths[place] -= cut
            excess -= cut
    for heading, width in zip(HEADER, widths, strict=True):
        number = heading in ("products", "parameters")
        side: Literal["left", "right"] = "right" if number else "left"
        table.add_column(heading, justify=side, width=width, no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _row(cell: GatedCell) -> list[str]:
    """Return the texts of a cell's line."""
    gates, states = " ".join(cell.layout.gates), " ".join(cell.layout.states)
    return [cell.name, cell.paper, gates, states, str(products(cell)), f"{_count(cell):,}"]


def _print_markdown(listed: Sequence[GatedCell], caption: str) -> None:
    """Print the table as Markdown, without links to files, since files move."""
    print("| " + " | ".join([*HEADER, "checked against"]) + " |")
    print("|---|---|---|---|--:|--:|---|")
    for cell in listed:
        name, paper, *others = (text.replace("|", "\\|") for text in _row(cell))
        print("| " + " | ".join([f"`{name}`", paper, *others, cell.reference or "–"]) + " |")
    print("\n" + caption[0].upper() + caption[1:] + ".")
    print("\n" + " ".join(_verified(listed)))


def _verified(listed: Sequence[GatedCell]) -> list[str]:
    """Return sentences on the number of verified cells, and on the others with the reason."""
    grades: dict[str, list[str]] = {}
    for cell in listed:
        if cell.reference not in VERIFIED:
            grades.setdefault(cell.reference, []).append(cell.name)
    number = len(listed) - sum(map(len, grades.values()))
    lines = [
        f"{number} of {len(listed)} are verified: equal to an independent reference written from "
        f"the paper or its author's code."
    ]
    for grade, names in sorted(grades.items()):
        reason = f"Unverified, with a reference from {grade}" if grade else UNCHECKED.capitalize()
        lines.append(f"{reason}: {', '.join(names)}.")
    return lines


@torch.no_grad()
def products(cell: GatedCell) -> int:
    """Return the number of matrix products with states in one time step of a cell."""
    late: list[tuple[str, ...]] = []

    def counted(gate: Any, v: torch.Tensor) -> Any:
        late.append((gate,) if isinstance(gate, str) else tuple(gate))
        return prepared.products(gate, v)

    prepared = PreparedCell(cell, counted)
    projected = cell.project_sequence(torch.zeros(1, cell.input_size), None)
    prepared.advance(projected, cell.initial_state(1))
    products = prepared.products
    fused = [*products.early.values(), *(products.late.get(names) for names in late)]
    return sum(product is None or product.block.kind != "diagonal" for product in fused)


def show_tasks(arguments: list[str]) -> int:
    """List the tasks that match a pattern, or show one task's description and options.

    Args:
        arguments: the command line.

    Returns:
        The exit status, 0.
    """
    from cellzoo.tasks import tasks  # imports Lightning

    parser = argparse.ArgumentParser(
        prog="cellzoo tasks",
        description="List the registered tasks, or show the description and options of one.",
    )
    parser.add_argument("name", nargs="?", default="*", help="a task, or a pattern")
    options = parser.parse_args(arguments)
    if not any(character in options.name for character in "*?["):
        task = tasks[options.name]
        console.print(f"[bold]{options.name}[/bold]\n", _text(task), sep="\n")
        console.print(f"\nmonitors: {task.monitor} ({task.mode})")
        _print_options(option_specs(task))
        _print_place(task)
        return 0
    table = Table("name", "description", "monitors", box=None, pad_edge=False)
    for name in tasks.names(options.name):
        task = tasks[name]
        summary = _text(task).splitlines()[0]
        table.add_row(name, escape(summary), f"{task.monitor} ({task.mode})")
    console.print(table)
    return 0


def _show_cell(cls: type[GatedCell], input_size: int, hidden_size: int) -> None:
    """Print a cell's docstring, declarations, parameters and options."""
    cell = cell_class(cls)(input_size, hidden_size)
    console.print(f"[bold]{cell.name}[/bold]  {escape(cell.paper)}\n")
    console.print(escape(_text(cls)), soft_wrap=True)
    console.print(f"\ngates (rows of the fused weights)  {' '.join(cell.layout.gates)}")
    console.print(f"states  {' '.join(cell.layout.states)}")
    for gate, sign in cell.keep.items():
        console.print(f"keeps the memory by  {gate if sign > 0 else '1 − ' + gate}")
    checked = f"checked against a reference from {cell.reference}"
    console.print(checked if cell.reference else UNCHECKED)
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
