"""The commands: train, sweep, compare, bench, check, cells, tasks."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

USAGE = """\
cellzoo: a research framework for recurrent cell variants

  cellzoo train [overrides]      one run: cell=gru task=digits hidden_size=64 seed=0
  cellzoo sweep [overrides]      many runs: cell=lstm,gru seed=0,1,2
  cellzoo compare DIRECTORY      tables and plots of a sweep's runs
  cellzoo bench [CELL …]         time and memory beside torch.nn; --warm compiles ahead
  cellzoo check FILE|NAME        whether cells do what every cell must: a line for each check
  cellzoo cells [NAME]           the registered cells, or one's equations and options
  cellzoo tasks [NAME]           the registered tasks

Each takes --help; all take --plugin FILE_OR_MODULE (repeatable) and --debug (tracebacks).
"""


NAME = "CELLZOO_NAME"
# Errors whose message says it all; others are printed with their type.
SAID_WELL = (ValueError, TypeError, LookupError, OSError, ImportError, AttributeError)


class UsageError(ValueError):
    """A command line that makes no sense."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 where a run failed, 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    common.add_argument("--plugin", action="append", default=[])
    common.add_argument("--debug", action="store_true")
    try:
        said, rest = common.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        return _say(str(error), 2)
    debug = said.debug or os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        if not rest or rest[0] in ("-h", "--help"):
            print(USAGE, end="")
            return 0 if rest else 2
        command, *rest = rest
        if command == "--version":
            from cellzoo import __version__

            print(__version__)
            return 0
        if command not in COMMANDS:
            from cellzoo.names.registry import nearest

            raise UsageError(f"unknown command {command!r}: {nearest(command, COMMANDS)}")
        from cellzoo.names.plugins import add_plugins

        add_plugins(said.plugin)
        return COMMANDS[command](rest, debug)
    except SystemExit as stop:  # argparse, and Hydra's --help
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            traceback.print_exc()
        lines = str(error).strip().splitlines() or [type(error).__name__]
        named = isinstance(error, SAID_WELL) or type(error).__module__.startswith("cellzoo")
        return _say(lines[0] if named else f"{type(error).__name__}: {lines[0]}", 2)


def _say(message: str, status: int) -> int:
    print(f"cellzoo: {message}", file=sys.stderr)
    return status


def _train(arguments: list[str], debug: bool) -> int:
    from cellzoo.run.command import train_command

    with _named(arguments, "train") as named:
        return train_command(named, debug)


def _sweep(arguments: list[str], debug: bool) -> int:
    from cellzoo.sweep.command import status_command, sweep_command

    if any(each.split("=")[0] == "--status" for each in arguments):
        return status_command(arguments)
    with _named(arguments, "sweep") as named:
        return sweep_command(named, debug)


def _compare(arguments: list[str], debug: bool) -> int:
    from cellzoo.compare import main as compare

    return compare(arguments)


def _bench(arguments: list[str], debug: bool) -> int:
    from cellzoo.bench import main as bench

    return bench(arguments)


def _check(arguments: list[str], debug: bool) -> int:
    from cellzoo.testing.command import main as check

    return check(arguments)


def _cells(arguments: list[str], debug: bool) -> int:
    from cellzoo.cli.catalogue import show_cells

    return show_cells(arguments)


def _tasks(arguments: list[str], debug: bool) -> int:
    from cellzoo.cli.catalogue import show_tasks

    return show_tasks(arguments)


COMMANDS: dict[str, Callable[[list[str], bool], int]] = {
    "train": _train,
    "sweep": _sweep,
    "compare": _compare,
    "bench": _bench,
    "check": _check,
    "cells": _cells,
    "tasks": _tasks,
}


@contextmanager
def _named(arguments: list[str], command: str) -> Iterator[list[str]]:
    """The overrides, with a name that no other run has where none is given."""
    arguments = [each for each in arguments if each not in ("name=", "name=null")]
    named = [each for each in arguments if each.startswith("name=")]
    if any("," in each for each in named):
        raise UsageError(f"a name is one name, not {named[0]!r}")
    if named:
        yield arguments
        return
    # By an environment variable, so that the other ranks of this run get the same name.
    inherited = os.environ.get(NAME)
    stamp = f"{command}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    os.environ[NAME] = inherited or stamp
    try:
        yield [*arguments, f"name={os.environ[NAME]}"]
    finally:
        if inherited is None:
            del os.environ[NAME]


def run() -> NoReturn:
    """The console script."""
    sys.exit(main())
