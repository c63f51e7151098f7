"""Rooms import in one order and no modules import each other in a circle: the source is read."""

from __future__ import annotations

import ast
from importlib.util import resolve_name
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cellzoo"
# A room imports from earlier floors only, so rooms of one floor do not import each other.
FLOORS = [
    ["system", "names"], ["cells"], ["zoo"], ["engines"], ["nn"], ["tasks"], ["config"], ["run"],
    ["testing", "sweep", "compare"], ["bench"], ["cli"],
]  # fmt: skip
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports_in(package: Path) -> dict[str, set[str]]:
    """Return the modules that each module imports, within functions and for types too."""
    paths = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        paths[".".join(parts[:-1] if path.stem == "__init__" else parts)] = path
    edges = {}
    for module, path in paths.items():
        parent = module if path.stem == "__init__" else module.rpartition(".")[0]
        targets: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                source = resolve_name("." * node.level + (node.module or ""), parent)
                members = {f"{source}.{alias.name}" for alias in node.names}
                targets |= {name if name in paths else source for name in members}
        edges[module] = targets & paths.keys()
    return edges


def violations(package: Path) -> list[str]:
    """Return the imports that the order forbids, then the circles of modules."""
    edges = imports_in(package)
    wrong = []
    for module in sorted(edges):
        if module in ("cellzoo", "cellzoo.__main__"):
            continue
        room = module.split(".")[1]
        for target in sorted(edges[module]):
            other = target.partition(".")[2].split(".")[0]  # "": the package itself
            if room != other and FLOOR[room] <= FLOOR.get(other, len(FLOORS)):
                wrong.append(f"{module} imports {target}")
    reached = {module: reachable(edges, module) for module in edges}
    circles = {
        ", ".join(sorted(other for other in reached[module] if module in reached[other]))
        for module in edges
    }
    return wrong + [f"circle: {names}" for names in sorted(circles - {""})]


def reachable(edges: dict[str, set[str]], module: str) -> set[str]:
    """Return the modules that importing a module imports in turn."""
    reached: set[str] = set()
    waiting = set(edges[module])
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= edges[name] - reached
    return reached


def test_rooms_import_one_way_and_no_modules_in_a_circle():
    assert not violations(PACKAGE), "\n".join(violations(PACKAGE))


def test_every_module_is_in_a_room():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(FLOOR)


@pytest.mark.parametrize("room", FLOOR)
def test_a_room_states_its_purpose_in_one_line(room):
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    purpose, *rest = text.splitlines()
    assert purpose.endswith(".")
    assert not rest or rest[0] == ""


CLEAN = {
    "__init__": "from cellzoo.nn.rnn import RNN",
    "system/files": "",
    "cells/__init__": "from cellzoo.cells.base import Cell",
    "cells/base": "from cellzoo.system import files\nfrom . import layout",
    "cells/layout": "",
    "nn/rnn": "from cellzoo.cells import Cell",
    "sweep/command": "import cellzoo.nn.rnn",
    "compare/read": "",
}
PLANTED = {
    "nothing": ({}, []),
    "upward in a function": (
        {"system/files": "def f():\n    from cellzoo.compare.read import g"},
        ["cellzoo.system.files imports cellzoo.compare.read"],
    ),
    "sideways": (
        {"sweep/command": "from cellzoo.compare import read"},
        ["cellzoo.sweep.command imports cellzoo.compare.read"],
    ),
    "the package": ({"compare/read": "import cellzoo"}, ["cellzoo.compare.read imports cellzoo"]),
    "circle for types": (
        {"cells/layout": "if TYPE_CHECKING:\n    from cellzoo.cells.base import Cell"},
        ["circle: cellzoo.cells.base, cellzoo.cells.layout"],
    ),
    "circle through a room": (
        {"cells/layout": "from cellzoo.cells import Cell"},
        ["circle: cellzoo.cells, cellzoo.cells.base, cellzoo.cells.layout"],
    ),
}


@pytest.mark.parametrize(("planted", "expected"), PLANTED.values(), ids=PLANTED)
def test_a_planted_import_is_named(planted, expected, tmp_path):
    for name, source in (CLEAN | planted).items():
        path = tmp_path / "cellzoo" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(source)
    assert violations(tmp_path / "cellzoo") == expected
