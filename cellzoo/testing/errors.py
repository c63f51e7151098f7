"""The exceptions that checks raise."""


class ConformanceError(AssertionError):
    """A cell violates the contract; the message gives the difference, its place and a cause."""


class NotChecked(Exception):
    """A check does not apply to a cell; the message gives the reason."""
