"""The error of a benchmark's arguments."""


class BenchError(ValueError):
    """A benchmark is impossible; the message names the argument and the remedy."""
