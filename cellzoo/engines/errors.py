"""The errors that engines raise."""


class EngineError(RuntimeError):
    """The requested engine cannot run this cell or input."""


class CompileError(EngineError):
    """A cell cannot be traced, or its code cannot be compiled; the message gives the reason."""


def in_one_line(error: Exception) -> str:
    """Return an error as one line, with its type unless an engine raised it."""
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, EngineError) else f"{type(error).__name__}: {line}"
