"""What engines raise."""


class EngineError(RuntimeError):
    """An engine asked for by name cannot run this."""


class CompileError(EngineError):
    """A cell cannot be traced, or its code not be compiled; the message says why."""


def in_one_line(error: Exception) -> str:
    """An error as one line: what engines raise says it all, others need their type's name."""
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, EngineError) else f"{type(error).__name__}: {line}"
