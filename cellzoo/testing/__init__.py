"""The conformance suite: what every cell must do, as checks that anybody can run on theirs.

    # test_my_cells.py
    from cellzoo.testing import conformance_tests
    from my_cells import MyCell

    test_conformance = conformance_tests(MyCell)

makes a pytest test of each check; `check_cell(MyCell)` runs them all at once, and
`cellzoo check my_cells.py` does so for every cell that a file registers. A check is a function of
a `Subject`, the cell with its options and, if there is one, its independent reference.
"""

from cellzoo.testing.errors import ConformanceError, NotChecked
from cellzoo.testing.subject import Subject
from cellzoo.testing.suite import (
    CHECKS,
    Result,
    check_cell,
    conformance_tests,
    run_check,
    run_checks,
)

__all__ = [
    "CHECKS",
    "ConformanceError",
    "NotChecked",
    "Result",
    "Subject",
    "check_cell",
    "conformance_tests",
    "run_check",
    "run_checks",
]
