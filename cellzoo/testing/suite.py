"""All checks, and the ways to run them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellzoo.cells.base import GatedCell
from cellzoo.testing import declarations, engines, numbers, reference, sequences
from cellzoo.testing.errors import ConformanceError, NotChecked
from cellzoo.testing.subject import Subject, variants

Check = Callable[[Subject], None]

CHECKS: tuple[Check, ...] = (
    declarations.builds,
    reference.equals_its_reference,
    numbers.gradients,
    numbers.dtypes,
    sequences.shapes,
    sequences.uses_its_input,
    sequences.causality,
    sequences.batch_independence,
    sequences.determinism,
    sequences.chunks,
    sequences.steps,
    sequences.packed,
    sequences.backwards,
    declarations.parameters_used,
    declarations.parameter_count,
    declarations.keep_and_write,
    declarations.elapsed_time,
    declarations.presets,
    engines.state_dict,
    engines.engines,
    engines.export,
    numbers.long_sequences,
)


@dataclass(frozen=True)
class Result:
    """What became of one check: "passed", "failed" or "not checked", and why."""

    check: str
    outcome: str
    message: str = ""


def run_check(check: Check, subject: Subject) -> None:
    """Run one check.

    Raises:
        ConformanceError: the cell fails it; what the cell itself raises is said with its line.
        NotChecked: it does not apply, or the cell cannot even be built.
    """
    if check is not declarations.builds:
        try:
            declarations.builds(subject)
        except ConformanceError:
            raise NotChecked("it does not build") from None
    try:
        check(subject)
    except (ConformanceError, NotChecked):
        raise
    except Exception as error:
        raise ConformanceError(f"{type(error).__name__}: {error}{_place(error)}") from error


def run_checks(subject: Subject, checks: Iterable[Check] = CHECKS) -> Iterator[Result]:
    """Run checks one after the other and say what became of each."""
    for check in checks:
        name = check.__name__
        try:
            run_check(check, subject)
        except ConformanceError as error:
            yield Result(name, "failed", str(error))
        except NotChecked as reason:
            yield Result(name, "not checked", str(reason))
        else:
            yield Result(name, "passed")


def check_cell(
    cell: str | type[GatedCell] | Subject,
    options: Mapping[str, Any] | None = None,
    *,
    reference: Callable[..., Any] | None = None,
    compile: bool = False,
) -> list[Result]:
    """Run a cell through the whole suite.

    Args:
        cell: a registered name, a class, or a `Subject`, which says more.
        options: the cell's own.
        reference: see `cellzoo.testing.reference`.
        compile: also compile it, some fifteen seconds.

    Returns:
        What passed, and what was not checked and why.

    Raises:
        ConformanceError: what failed, a line for each check.
    """
    subject = cell if isinstance(cell, Subject) else Subject(cell, options or {}, reference)
    found = list(run_checks(subject, (*CHECKS, *((engines.compiles,) if compile else ()))))
    failed = [f"{each.check}: {each.message}" for each in found if each.outcome == "failed"]
    if failed:
        raise ConformanceError("\n".join([f"{subject} fails {len(failed)} checks:", *failed]))
    return found


def conformance_tests(*cells: str | type[GatedCell] | Subject, compile: bool = False) -> Any:
    """A pytest test for each check of each cell: `test_conformance = conformance_tests(MyCell)`.

    A cell by name or class is tested with its default options and with every other choice of each
    option; a `Subject` as it says.

    Args:
        cells: names, classes or Subjects.
        compile: also compile them, some fifteen seconds each.
    """
    import pytest

    cases = [
        pytest.param(subject, check, id=f"{subject}-{check.__name__}".replace(" ", "-"))
        for cell in cells
        for subject in _subjects(cell)
        for check in (*CHECKS, *((engines.compiles,) if compile else ()))
    ]

    @pytest.mark.parametrize(("subject", "check"), cases)
    def test_conformance(subject: Subject, check: Check) -> None:
        __tracebackhide__ = True
        try:
            run_check(check, subject)
        except NotChecked as reason:
            pytest.skip(str(reason))

    return test_conformance


def _subjects(cell: str | type[GatedCell] | Subject) -> list[Subject]:
    if isinstance(cell, Subject):
        return [cell]
    return [Subject(cell, options) for options in variants(cell)]


def _place(error: Exception) -> str:
    """ " (file:line)" of the last line outside torch and cellzoo's engines: the author's."""
    own = Path(__file__).parents[1]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if "torch" not in path.parts and (own not in path.parents or path.parent.name == "zoo"):
            return f" ({path}:{frame.lineno})"
    return ""
