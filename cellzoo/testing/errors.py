"""What a check raises."""


class ConformanceError(AssertionError):
    """A cell does not do what every cell must; the message says what, where and why it may be."""


class NotChecked(Exception):
    """A check that does not apply to a cell; the message says why."""
