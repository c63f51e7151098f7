"""`cellzoo bench`: the arguments of a benchmark."""

from __future__ import annotations

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

#: By device: the engines that may run there.
ENGINES_OF = {"cpu": [name for name in ENGINES if name != "persistent"], "cuda": [*ENGINES]}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cellzoo bench` with `argv`.

    Returns:
        0; 1 where a registered cell failed (with --warm: one that was asked for by name).

    Raises:
        BenchError, UnknownNameError: an argument makes no sense.
    """
    said = _parser().parse_args(argv)
    chosen = _cells(said.cells)
    threads = _positive(
        "--threads", torch.get_num_threads() if said.threads is None else said.threads
    )
    if said.warm:
        failed = warm(chosen, lambda line: print(line, flush=True), processes=threads)
        return int(any(name in failed for name in said.cells))
    _known("dtype", said.dtype, DTYPES)
    _known("device", said.device, ENGINES_OF)
    engines = said.engine.split(",") if said.engine else ENGINES_OF[said.device]
    for engine in engines:
        _known("engine", engine, ENGINES)
    if said.device == "cuda" and not torch.cuda.is_available():
        raise BenchError("--device cuda: torch sees no CUDA device")
    shapes = [Shape.parse(text) for text in said.shape] or SHAPES
    rounds = _positive("--repeats", said.repeats)
    out = _folder(said.out)
    with on_threads(threads):
        rows = bench(
            chosen,
            list(dict.fromkeys(engines)),
            list(dict.fromkeys(shapes)),
            dtype=DTYPES[said.dtype],
            device=said.device,
            rounds=rounds,
            seed=said.seed,
            with_peers=not said.no_peers,
            say=_say,
        )
    _say("")
    report(rows, out)
    return int((rows["engine"].isin(list(ENGINES)) & (rows["status"] == "failed")).any())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cellzoo bench",
        description="Time, memory and arithmetic of cells by engines, beside torch.nn's layers and "
        "those of torchrecurrent, Keras, haste and flashrnn where they are installed.",
        epilog="example: cellzoo bench lstm 'gru*' --engine native,compiled --shape 100,32,64,64",
    )
    parser.add_argument(
        "cells", nargs="*", metavar="CELL", help="names, or patterns like '*lstm*' (default: all)"
    )
    parser.add_argument(
        "--engine",
        metavar="NAMES",
        help=f"of {','.join(ENGINES)} (default: all that the device has)",
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
        help="of torch, or with --warm, cells compiled at once (default: torch's own number)",
    )
    parser.add_argument(
        "--repeats", type=int, default=9, metavar="N", help="rounds (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order within the rounds")
    parser.add_argument("--no-peers", action="store_true", help="torch.nn and no other package")
    parser.add_argument("--out", help="where files go (default: bench/<date>-<time>)")
    parser.add_argument(
        "--warm",
        action="store_true",
        help="measure nothing: compile the cells, so that later runs find them compiled",
    )
    return parser


def _cells(patterns: Sequence[str]) -> list[str]:
    """The cells that were asked for, each once."""
    found: list[str] = []
    for pattern in patterns or ["*"]:
        matching = cells.names(pattern)
        if not matching:
            cells[pattern]  # for a name: the error that names the nearest
        found += matching
    return list(dict.fromkeys(found))


def _known(what: str, name: str, names: Collection[str]) -> None:
    if name not in names:
        raise BenchError(f"unknown {what} {name!r}: {nearest(name, names)}")


def _positive(option: str, number: int) -> int:
    if number < 1:
        raise BenchError(f"{option} must be 1 or more, not {number}")
    return number


def _folder(out: str | None) -> Path:
    """Where files go, looked at now: a long run must not end at one that cannot be written."""
    folder = Path(out or f"bench/{time.strftime('%Y%m%d-%H%M%S')}")
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise BenchError(f"--out {folder}: {there} is no folder that can be written to")
    return folder


def _say(text: str) -> None:
    """What goes on, on one line of a terminal; without a thread, which would cost the measured."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
