"""`cellzoo bench`: the command-line arguments of a benchmark."""

import argparse
import os
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from cellzoo.bench.errors import BenchError
from cellzoo.bench.report import report
from cellzoo.bench.run import bench
from cellzoo.bench.shape import SHAPES, Shape
from cellzoo.bench.warm import warm
from cellzoo.cells.registry import cells
from cellzoo.engines import ENGINES
from cellzoo.names.registry import nearest
from cellzoo.system.threads import on_threads

#: The engines of each device.
ENGINES_OF = {"cpu": [name for name in ENGINES if name != "persistent"], "cuda": [*ENGINES]}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cellzoo bench`.

    Returns:
        The exit status: 1 if a registered cell failed (with --warm: a cell in `argv`), else 0.

    Raises:
        BenchError, UnknownNameError: An argument is wrong.
    """
    options = _parser().parse_args(argv)
    names = _cells(options.cells)
    threads = _positive(
        "--threads", torch.get_num_threads() if options.threads is None else options.threads
    )
    if options.warm:
        failed = warm(names, lambda line: print(line, flush=True), processes=threads)
        return int(any(name in failed for name in options.cells))
    _known("dtype", options.dtype, DTYPES)
    _known("device", options.device, ENGINES_OF)
    engines = options.engine.split(",") if options.engine else ENGINES_OF[options.device]
    for engine in engines:
        _known("engine", engine, ENGINES)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BenchError("--device cuda: torch sees no CUDA device")
    shapes = [Shape.parse(text) for text in options.shape] or SHAPES
    rounds = _positive("--repeats", options.repeats)
    out = _folder(options.out)
    with on_threads(threads):
        rows = bench(
            names,
            list(dict.fromkeys(engines)),
            list(dict.fromkeys(shapes)),
            dtype=DTYPES[options.dtype],
            device=options.device,
            rounds=rounds,
            seed=options.seed,
            with_peers=not options.no_peers,
            progress=_show_progress,
        )
    _show_progress("")
    report(rows, out)
    return int((rows["engine"].isin(list(ENGINES)) & (rows["status"] == "failed")).any())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cellzoo bench",
        description="Measure time, memory and arithmetic of cells on engines, beside the layers of "
        "torch.nn and, if installed, torchrecurrent and Keras.",
        epilog="example: cellzoo bench lstm 'gru*' --engine native,compiled --shape 100,32,64,64",
    )
    parser.add_argument(
        "cells",
        nargs="*",
        metavar="CELL",
        help="names, or patterns such as '*lstm*' (default: all)",
    )
    parser.add_argument(
        "--engine",
        metavar="NAMES",
        help=f"some of {','.join(ENGINES)} (default: all engines of the device)",
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="T,B,I,H",
        help="steps, batch, input_size, hidden_size; repeatable (default: six from small to large)",
    )
    parser.add_argument("--dtype", default="float32", help=f"one of {', '.join(DTYPES)}")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of torch, or with --warm, cells compiled in parallel (default: as torch)",
    )
    parser.add_argument(
        "--repeats", type=int, default=9, metavar="N", help="rounds (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the order within the rounds")
    parser.add_argument(
        "--no-peers", action="store_true", help="measure torch.nn and no other package"
    )
    parser.add_argument("--out", help="the directory of the output (default: bench/<date>-<time>)")
    parser.add_argument(
        "--warm",
        action="store_true",
        help="compile the cells for later runs, and measure nothing",
    )
    return parser


def _cells(patterns: Sequence[str]) -> list[str]:
    """Return the names that match the patterns, without duplicates."""
    names: list[str] = []
    for pattern in patterns or ["*"]:
        matching = cells.names(pattern)
        if not matching:
            cells[pattern]  # an unknown name raises with the nearest name
        names += matching
    return list(dict.fromkeys(names))


def _known(kind: str, name: str, names: Collection[str]) -> None:
    if name not in names:
        raise BenchError(f"unknown {kind} {name!r}: {nearest(name, names)}")


def _positive(option: str, number: int) -> int:
    if number < 1:
        raise BenchError(f"{option} must be 1 or more, not {number}")
    return number


def _folder(out: str | None) -> Path:
    """Return the output folder; an unwritable folder raises before the long measurement."""
    folder = Path(out or f"bench/{time.strftime('%Y%m%d-%H%M%S')}")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise BenchError(f"--out {folder}: {existing} is not a writable folder")
    return folder


def _show_progress(text: str) -> None:
    """Show progress on one line of a terminal, without a thread that would disturb the times."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
