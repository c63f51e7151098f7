"""The benchmark: from cells, engines and shapes to a table of measurements."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import pandas
import torch
from torch import Tensor

from cellzoo.bench import peers
from cellzoo.bench.contenders import Absent, Candidate, Contender, registered
from cellzoo.bench.errors import BenchError
from cellzoo.bench.machine import machine
from cellzoo.bench.measure import Call, interleaved
from cellzoo.bench.memory import peak_bytes
from cellzoo.bench.results import MEASURED, WHOLE, absent_row, row
from cellzoo.bench.shape import Shape
from cellzoo.engines import CompileError, EngineError
from cellzoo.engines.errors import in_one_line

Progress = Callable[[str], object]

KINDS = ("forward", "step")
#: The side of the square matrices that measure the machine's matrix rate.
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
    progress: Progress = lambda text: None,
) -> pandas.DataFrame:
    """Measure every cell on every engine at every shape, beside torch.nn and other packages.

    Args:
        cells, engines: registered names.
        shapes: the shapes, measured in turn.
        dtype, device: the type of input and parameters.
        rounds: the measurements of each contender, in a random order in each round.
        seed: the seed of the orders, the inputs and the parameters.
        with_peers: whether packages besides torch.nn take part.
        progress: a function that is called with a line of text before each part.

    Returns:
        One row for each contender and shape, with the columns of `results.row`. Absent
        contenders have a row with the reason.

    Raises:
        BenchError: Nothing could be measured.
    """
    target = torch.device(device)
    others, missing = peers.others(cells) if with_peers else ([], [])
    own = [registered(cell, engine) for cell in cells for engine in engines]
    candidates = [*own, *peers.torch_nn(), *others]
    rows = []
    for number, shape in enumerate(shapes, 1):
        place = f"shape {number} of {len(shapes)} ({shape})"
        torch.manual_seed(seed)
        x = torch.randn(shape[:3]).to(target, dtype)
        rows += _at(shape, x, candidates, rounds, seed, partial(_report, progress, place))
    rows += [absent_row(absent, None) for absent in missing]
    if not any(measurement["status"] == MEASURED for measurement in rows):
        raise BenchError(f"nothing could be measured: {rows[0]['contender']}: {rows[0]['reason']}")
    frame = pandas.DataFrame(rows).astype(dict.fromkeys(WHOLE, "Int64"))
    version = frame["engine"].map(peers.version)
    return frame.assign(version=version, dtype=str(dtype).removeprefix("torch."), **machine(target))


def _at(
    shape: Shape,
    x: Tensor,
    candidates: Sequence[Candidate],
    rounds: int,
    seed: int,
    progress: Progress,
) -> list[dict[str, object]]:
    """Return the rows of one shape: measure first calls, then peak memory, then times."""
    contenders: list[Contender] = []
    gradients: dict[torch.Size, Tensor] = {}
    first: dict[Contender, float] = {}
    peak: dict[Contender, int] = {}
    rows = []
    for candidate in candidates:
        progress(f"first call of {candidate.name} ({candidate.engine})")
        try:
            contender = Contender(candidate, *candidate.build(x, shape.hidden_size), gradients)
            start = time.perf_counter()
            for kind in KINDS:
                contender.call(kind)()
            _wait(x)
            first[contender] = time.perf_counter() - start
            peak[contender] = peak_bytes(contender.call("step"), x.device)
            contenders.append(contender)
        except Exception as error:  # a failure must not end the measurement of the others
            rows.append(absent_row(_absent(candidate, error), shape))
    multiply, operations = _product(x)
    calls: dict[tuple[Contender | None, str], Callable[[], Call]] = {
        (contender, kind): partial(contender.call, kind)
        for contender in contenders
        for kind in KINDS
    }
    calls[None, ""] = lambda: multiply
    times = interleaved(
        calls,
        rounds,
        seed,
        wait=partial(_wait, x),
        on_round=lambda number: progress(f"round {number + 1} of {rounds}"),
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
    """Return a large matrix product with x's device and dtype, and the number of operations."""
    side = SIDE[x.device.type]
    a, b, out = (torch.randn(side, side).to(x.device, x.dtype) for _ in range(3))
    return lambda: torch.mm(a, b, out=out), 2 * side**3


def _absent(candidate: Candidate, error: Exception) -> Absent:
    """Return the reason for a candidate's absence, without repeating the candidate's name."""
    declined = isinstance(error, EngineError) and not isinstance(error, CompileError)
    reason = in_one_line(error)
    reason = reason.removeprefix(f"engine {candidate.engine!r} cannot run {candidate.cell}: ")
    reason = reason.removeprefix(f"{candidate.engine} declined: ")
    return Absent(*candidate[:3], "declined" if declined else "failed", reason)


def _wait(x: Tensor) -> None:
    """Wait until x's device is idle."""
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)


def _report(progress: Progress, place: str, text: str) -> None:
    progress(f"{place}: {text}")
