"""The conformance suite: checks of the contract that every cell must fulfil.

    # test_my_cells.py
    from cellzoo.testing import conformance_tests
    from my_cells import MyCell

    test_conformance = conformance_tests(MyCell)

makes each check a pytest test. `check_cell(MyCell)` runs all checks at once.
`cellzoo check my_cells.py` checks every cell that a file registers. A check is a function of a
`Subject`: the cell with its options and, optionally, an independent reference.
"""

from cellzoo.testing.errors import ConformanceError, NotChecked
from cellzoo.testing.subject import Subject
from cellzoo.testing.suite import (
    CHECKS,
    Outcome,
    Result,
    check_cell,
    conformance_tests,
    run_check,
    run_checks,
)
