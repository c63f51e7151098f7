"""What is wrong with a benchmark's arguments, said in one line."""


class BenchError(ValueError):
    """A benchmark that cannot be run; the message names the argument and what to do."""
