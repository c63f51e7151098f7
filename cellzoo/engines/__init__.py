"""How a cell runs over time: from one layer's cells and a sequence to outputs and states.

An engine is a module of two functions with the signatures of `loop.declines` and `loop.run`
(without `checkpoint_steps` for `native`: its kernels save the states of every step).
"""

from collections.abc import Sequence
from types import ModuleType

from torch import Tensor

from cellzoo.cells.base import GatedCell
from cellzoo.engines import compiled, loop, native, persistent, scan
from cellzoo.engines.errors import CompileError, EngineError
from cellzoo.engines.packing import Layer
from cellzoo.names.registry import nearest

ENGINES: dict[str, ModuleType] = {
    "native": native,
    "compiled": compiled,
    "persistent": persistent,
    "scan": scan,
    "loop": loop,
}


def check_engine(name: str, cell: GatedCell) -> None:
    """Check that an engine exists and that the cell does not rule it out.

    Args:
        name: an engine's name, or "auto".
        cell: the cell.

    Raises:
        ValueError: no engine has that name.
        EngineError: this engine cannot run the cell for any input.

    Example:
        >>> import cellzoo
        >>> check_engine("loop", cellzoo.build_cell("lstm", 3, 4))
        >>> check_engine("lop", cellzoo.build_cell("lstm", 3, 4))
        Traceback (most recent call last):
        ValueError: unknown engine 'lop': did you mean 'loop'?
    """
    if name not in ("auto", *ENGINES):
        raise ValueError(f"unknown engine {name!r}: {nearest(name, ('auto', *ENGINES))}")
    if name != "auto" and (reason := _ruled_out(name, cell)):
        raise EngineError(f"engine {name!r} cannot run {cell.name}: {reason}")
    if name == "native" and native.kernel(cell) is None:
        raise EngineError(f"engine 'native' cannot run {cell.name}: torch.nn has no kernel for it")
    if name == "scan" and not cell.linear:
        raise EngineError(f"engine 'scan' cannot run {cell.name}: its states do not enter linearly")


def choose(
    names: Sequence[str], layer: Layer, checkpoint_steps: int | None = None
) -> tuple[str, list[str]]:
    """Choose the engine for an input.

    Args:
        names: the engines to choose from, the preferred one first.
        layer, checkpoint_steps: as in `loop.run`.

    Returns:
        The engine, and the reasons why the preferred ones decline.

    Raises:
        EngineError: all of them decline; the message gives the reasons.
    """
    declined: list[str] = []
    cell = layer.cells[0]
    for candidate in names:
        reason = _ruled_out(candidate, cell)
        if candidate == "native" and checkpoint_steps is not None:
            reason = reason or "its kernels keep every step's states"
        reason = reason or ENGINES[candidate].declines(layer)
        if reason is None:
            return candidate, declined
        declined.append(f"{candidate} declined: {reason}")
    raise EngineError(f"engine {names[-1]!r} cannot run {cell.name}: {'; '.join(declined)}")


def fastest(cell: GatedCell) -> list[str]:
    """Return the engines that may run a cell on its device, with compilation, the fastest first.

    Measured in experiments/speed: on the CPU compiled code is at least as fast as torch.nn's LSTM
    kernel, and torch.nn's other kernels are several times slower. For a linear cell on the CPU, at
    (T, B, I, H), compiled code took half the time of the scan at (784, 64, 1, 128) and
    (100, 32, 64, 64), the same at (100, 8, 16, 16), and three times as long for one sequence,
    (784, 1, 1, 128). On CUDA compiled, persistent and scan were not measured. The first two run
    there only on request.
    """
    engines = [engine for engine in candidates(cell) if not _ruled_out(engine, cell)]
    return [engine for engine in engines if engine != "native" or native.kernel(cell)]


def candidates(cell: GatedCell) -> list[str]:
    """Return the engines that "auto" chooses from for a cell, the fastest first."""
    compiled = ["compiled"] if cell._like.device.type == "cpu" else []
    return [*compiled, "native", *(["scan"] if cell.linear else []), "loop"]


def _ruled_out(engine: str, cell: GatedCell) -> str | None:
    """Return the reason why a cell rules an engine out; None if it does not."""
    if cell.engines is None or engine in cell.engines:
        return None
    return cell.engines_reason or f"{cell.name} runs by {', '.join(cell.engines)} only"
