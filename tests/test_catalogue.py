"""`cellzoo cells`: the table, the verified cells, and the size of their code."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import torch
from commands import as_a_user

import cellzoo
from cellzoo import Gate, GatedCell, build_cell
from cellzoo.cells.registry import cells
from cellzoo.cli import main
from cellzoo.cli.catalogue import _verified, products

ROOT = Path(__file__).parents[1]
OURS = [name for name in cellzoo.list_cells() if cells[name].__module__.startswith("cellzoo.")]


class Several(GatedCell):
    """One product before the update and two within the update, one of them computed twice."""

    gates = {"d": Gate(state="diagonal"), "a": Gate(), "n": Gate(late=True), "m": Gate(late=True)}

    def update(self, a, s):
        v = torch.tanh(a.a + a.d)
        for _ in range(2):
            v = torch.tanh(self.product("n", v))
        return torch.tanh(a.n + a.m + self.product("m", v))


def test_products_are_those_of_one_step():
    expected = {"lstm": 1, "gru": 1, "gru_v1": 2, Several: 4}
    assert {cell: products(build_cell(cell, 3, 4)) for cell in expected} == expected
    assert products(build_cell("lstm", 3, 4, proj_size=2)) == 2


def test_the_verified_cells_are_counted(monkeypatch):
    lstm, gru, elman = (build_cell(name, 3, 4) for name in ("lstm", "gru", "elman"))
    monkeypatch.setattr(type(lstm), "reference", "paper")
    monkeypatch.setattr(type(gru), "reference", "memory")
    monkeypatch.setattr(type(elman), "reference", "")
    first, *others = _verified([lstm, gru, elman])
    assert first.startswith("1 of 3 are verified")
    assert others == [
        "Not checked against a paper: elman.",
        "Unverified, with a reference from memory: gru.",
    ]


def test_one_cell_shows_the_source_of_its_reference(capsys):
    assert main(["cells", "gru"]) == 0
    output = capsys.readouterr().out
    assert f"checked against a reference from {cells['gru'].reference}" in output


def test_the_table_as_markdown(capsys):
    assert main(["cells", "*", "--markdown"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line[:3] == "| `"]
    assert {len(row) for row in rows} == {7}
    assert [row[0].strip("| `") for row in rows] == cellzoo.list_cells()
    assert main(["cells", "lst*", "--markdown"]) == 0
    assert "| `lstm` |" in capsys.readouterr().out


def code_lines(path: Path) -> int:
    """Return the number of lines without blank lines, comments and docstrings."""
    source = path.read_text()
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in ignored
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def test_cells_are_short():
    """Fewer than 40 lines of code for each cell, including the base class."""
    files = [*(ROOT / "cellzoo/cells").glob("*.py"), *(ROOT / "cellzoo/zoo").glob("*.py")]
    total = sum(map(code_lines, files))
    assert total / len(OURS) < 40


def test_the_table_in_the_repository_is_current(tmp_path):
    """Regenerate it by cellzoo cells --markdown > cellzoo/zoo/README.md."""
    done = as_a_user("cells", "--markdown", cwd=tmp_path)
    assert done.stdout == (ROOT / "cellzoo/zoo/README.md").read_text()
