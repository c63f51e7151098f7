"""A benchmark from cells, engines and shapes to a table of measurements."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import pandas
import torch
from torch import Tensor

from cellzoo.bench import peers
from cellzoo.bench.contenders import Absent, Candidate, Contender, ours
from cellzoo.bench.errors import BenchError
from cellzoo.bench.machine import machine
from cellzoo.bench.measure import Call, interleaved
from cellzoo.bench.memory import peak_bytes
from cellzoo.bench.results import MEASURED, WHOLE, absent_row, row
from cellzoo.bench.shape import Shape
from cellzoo.engines import CompileError, EngineError
from cellzoo.engines.errors import in_one_line

Say = Callable[[str], object]

KINDS = ("forward", "step")
#: The side of the square product that stands for the machine's own matrix rate.
SIDE = {"cpu": 2048, "cuda": 8192}


def bench(
    cells: Sequence[str],
    engines: Sequence[str],
    shapes: Sequence[Shape],
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    rounds: int = 9,
    seed: int = 0,
    with_peers: bool = True,
    say: Say = lambda text: None,
) -> pandas.DataFrame:
    """Measure every cell by every engine at every shape, beside torch.nn and other packages.

    Args:
        cells, engines: registered names.
        shapes: measured one after the other.
        dtype, device: of input and parameters.
        rounds: measurements of each contender, in an order of its own each time.
        seed: of the orders, the inputs and the parameters.
        with_peers: whether other packages than torch.nn take part.
        say: is told what goes on.

    Returns:
        A row for each contender and shape, what does not take part included, with its reason;
        `results.row` has the columns.

    Raises:
        BenchError: not one of them could be measured.
    """
    where = torch.device(device)
    found, missing = peers.others(cells, where) if with_peers else ([], [])
    mine = [ours(cell, engine) for cell in cells for engine in engines]
    candidates = [*mine, *peers.torch_nn(), *found]
    rows = []
    for number, shape in enumerate(shapes, 1):
        say_here = partial(_say, say, f"shape {number} of {len(shapes)} ({shape})")
        torch.manual_seed(seed)
        x = torch.randn(shape[:3]).to(where, dtype)
        rows += _at(shape, x, candidates, rounds, seed, say_here)
    rows += [absent_row(absent, None) for absent in missing]
    if not any(each["status"] == MEASURED for each in rows):
        raise BenchError(f"nothing could be measured: {rows[0]['contender']}: {rows[0]['reason']}")
    frame = pandas.DataFrame(rows).astype(dict.fromkeys(WHOLE, "Int64"))
    version = frame["engine"].map(peers.version)
    return frame.assign(version=version, dtype=str(dtype).removeprefix("torch."), **machine(where))


def _at(
    shape: Shape,
    x: Tensor,
    candidates: Sequence[Candidate],
    rounds: int,
    seed: int,
    say: Say,
) -> list[dict[str, object]]:
    """The rows of one shape: first calls, peak memory, then times."""
    contenders: list[Contender] = []
    gradients: dict[torch.Size, Tensor] = {}
    first: dict[Contender, float] = {}
    peak: dict[Contender, int] = {}
    rows = []
    for candidate in candidates:
        say(f"first call of {candidate.name} ({candidate.engine})")
        try:
            contender = Contender(candidate, *candidate.build(x, shape.hidden_size), gradients)
            start = time.perf_counter()
            for kind in KINDS:
                contender.call(kind)()
            _wait(x)
            first[contender] = time.perf_counter() - start
            peak[contender] = peak_bytes(contender.call("step"), x.device)
            contenders.append(contender)
        except Exception as error:  # one that fails must not cost the others their run
            rows.append(absent_row(_absent(candidate, error), shape))
    multiply, operations = _product(x)
    calls: dict[tuple[Contender | None, str], Callable[[], Call]] = {
        (each, kind): partial(each.call, kind) for each in contenders for kind in KINDS
    }
    calls[None, ""] = lambda: multiply
    times = interleaved(
        calls,
        rounds,
        seed,
        wait=partial(_wait, x),
        on_round=lambda number: say(f"round {number + 1} of {rounds}"),
    )
    baseline = next((c for c in contenders if c.candidate.name == peers.BASELINE), None)
    rows += [
        row(
            contender,
            shape,
            first=first[contender],
            peak=peak[contender],
            forward=times[contender, "forward"],
            step=times[contender, "step"],
            matrix_rate=operations / statistics.median(times[None, ""]),
            baseline=None if baseline is None else (baseline, times[baseline, "step"]),
        )
        for contender in contenders
    ]
    return rows


def _product(x: Tensor) -> tuple[Call, int]:
    """A large square matrix product of x's kind, and its floating-point operations."""
    side = SIDE[x.device.type]
    a, b, out = (torch.randn(side, side).to(x.device, x.dtype) for _ in range(3))
    return lambda: torch.mm(a, b, out=out), 2 * side**3


def _absent(candidate: Candidate, error: Exception) -> Absent:
    """Why a candidate does not take part, in words that do not repeat its name."""
    declined = isinstance(error, EngineError) and not isinstance(error, CompileError)
    reason = in_one_line(error)
    reason = reason.removeprefix(f"engine {candidate.engine!r} cannot run {candidate.cell}: ")
    reason = reason.removeprefix(f"{candidate.engine} declined: ")
    return Absent(*candidate[:3], "declined" if declined else "failed", reason)


def _wait(x: Tensor) -> None:
    """Return when x's device has done what was asked of it."""
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def _say(say: Say, where: str, text: str) -> None:
    say(f"{where}: {text}")
