"""The list of all checks, and the functions that run them."""

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
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


class Outcome(StrEnum):
    """The outcome of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Result:
    """The outcome of one check, with the reason unless the check passed."""

    check: str
    outcome: Outcome
    message: str = ""


def run_check(check: Check, subject: Subject) -> None:
    """Run one check.

    Args:
        check: one of `CHECKS`.
        subject: the cell under test.

    Raises:
        ConformanceError: The cell fails the check. An exception of the cell itself is reported
            with its file and line.
        NotChecked: The check does not apply, or the cell cannot be built.
    """
    if check is not declarations.builds:
        try:
            declarations.builds(subject)
        except ConformanceError:
            raise NotChecked("the cell cannot be built") from None
    try:
        check(subject)
    except (ConformanceError, NotChecked):
        raise
    except Exception as error:
        raise ConformanceError(f"{type(error).__name__}: {error}{_place(error)}") from error


def run_checks(subject: Subject, checks: Iterable[Check] = CHECKS) -> Iterator[Result]:
    """Run checks in turn and yield the result of each."""
    for check in checks:
        name = check.__name__
        try:
            run_check(check, subject)
        except ConformanceError as error:
            yield Result(name, Outcome.FAILED, str(error))
        except NotChecked as reason:
            yield Result(name, Outcome.NOT_CHECKED, str(reason))
        else:
            yield Result(name, Outcome.PASSED)


def check_cell(
    cell: str | type[GatedCell] | Subject,
    options: Mapping[str, Any] | None = None,
    *,
    reference: Callable[..., Any] | None = None,
    compile: bool = False,
) -> list[Result]:
    """Run a cell through the whole suite.

    Args:
        cell: a registered name, a class, or a `Subject` with further expectations.
        options: the cell's options.
        reference: one step in NumPy; see `cellzoo.testing.reference`.
        compile: also compile the cell, which takes about fifteen seconds.

    Returns:
        The result of every check. None of them failed.

    Raises:
        ConformanceError: Checks failed; the message has a line for each of them.

    Examples:
        >>> from cellzoo.testing import check_cell
        >>> results = check_cell("elman")
        >>> [result.check for result in results if result.outcome == "not checked"]
        ['equals_its_reference', 'parameter_count', 'keep_and_write', 'elapsed_time']
    """
    subject = cell if isinstance(cell, Subject) else Subject(cell, options or {}, reference)
    results = list(run_checks(subject, all_checks(compile)))
    failed = [f"{r.check}: {r.message}" for r in results if r.outcome == Outcome.FAILED]
    if failed:
        raise ConformanceError("\n".join([f"{subject} fails {len(failed)} checks:", *failed]))
    return results


def conformance_tests(*cells: str | type[GatedCell] | Subject, compile: bool = False) -> Any:
    """Return a pytest test that is parametrised by cells and checks.

    A name or a class is tested with its default options and with every other choice of each
    option; a `Subject` is tested with its own options.

    Args:
        cells: names, classes or Subjects.
        compile: also compile each cell, which takes about fifteen seconds.

    Examples:
        >>> from cellzoo.testing import conformance_tests
        >>> test_conformance = conformance_tests("lstm", "gru")
    """
    import pytest

    cases = [
        pytest.param(subject, check, id=f"{subject}-{check.__name__}".replace(" ", "-"))
        for cell in cells
        for subject in _subjects(cell)
        for check in all_checks(compile)
    ]

    @pytest.mark.parametrize(("subject", "check"), cases)
    def test_conformance(subject: Subject, check: Check) -> None:
        __tracebackhide__ = True
        try:
            run_check(check, subject)
        except NotChecked as reason:
            pytest.skip(str(reason))

    return test_conformance


def all_checks(compile: bool) -> tuple[Check, ...]:
    """Return all checks, with or without the check that compiles the cell."""
    return (*CHECKS, engines.compiles) if compile else CHECKS


def _subjects(cell: str | type[GatedCell] | Subject) -> list[Subject]:
    """Return the subjects of a cell, one for each set of options."""
    if isinstance(cell, Subject):
        return [cell]
    return [Subject(cell, options) for options in variants(cell)]


def _place(error: Exception) -> str:
    """Return " (file:line)" of the author's last line: outside torch and cellzoo's engines."""
    own = Path(__file__).parents[1]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if "torch" not in path.parts and (own not in path.parents or path.parent.name == "zoo"):
            return f" ({path}:{frame.lineno})"
    return ""
