"""What engines raise."""


class EngineError(RuntimeError):
    """An engine asked for by name cannot run this."""


class CompileError(EngineError):
    """A cell cannot be traced, or its code not be compiled; the message says why."""
