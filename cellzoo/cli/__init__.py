"""The command line: train, sweep, compare, bench, check, cells, tasks."""

import argparse
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NoReturn

USAGE = """\
cellzoo: a research framework for recurrent cell variants

  cellzoo train [overrides]      one run: cell=gru task=digits hidden_size=64 seed=0
  cellzoo sweep [overrides]      many runs: cell=lstm,gru seed=0,1,2
  cellzoo compare DIRECTORY      tables and plots of a sweep's runs
  cellzoo bench [CELL …]         time and memory beside torch.nn; --warm compiles ahead
  cellzoo check FILE|NAME        conformance of cells to the contract, a line for each check
  cellzoo cells [NAME]           the registered cells, or the equations and options of one
  cellzoo tasks [NAME]           the registered tasks

Each takes --help; all take --plugin FILE_OR_MODULE (repeatable) and --debug (tracebacks).
"""


# The functions of the commands, imported when they are called.
COMMANDS = {
    "train": "cellzoo.run.command:train_command",
    "sweep": "cellzoo.sweep.command:sweep_command",
    "compare": "cellzoo.compare.command:main",
    "bench": "cellzoo.bench.command:main",
    "check": "cellzoo.testing.command:main",
    "cells": "cellzoo.cli.catalogue:show_cells",
    "tasks": "cellzoo.cli.catalogue:show_tasks",
}
NAME = "CELLZOO_NAME"
# The errors whose message suffices; others are printed with their type.
CLEAR = (ValueError, TypeError, LookupError, OSError, ImportError, AttributeError)


class UsageError(ValueError):
    """A command line that cannot be understood."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments after the name of the program; by default those of this process.

    Returns:
        The exit status: 0; 1 if a run or a check failed; 2 for wrong usage; 130 after Ctrl-C; 141
        after a closed pipe.
    """
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    common.add_argument("--plugin", action="append", default=[])
    common.add_argument("--debug", action="store_true")
    try:
        options, arguments = common.parse_known_args(argv)
    except argparse.ArgumentError as error:
        return _fail(str(error), 2)
    debug = options.debug or os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        return _dispatch(arguments, options.plugin, debug)
    except SystemExit as stop:  # argparse, and Hydra's --help
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            traceback.print_exc()
        lines = str(error).strip().splitlines() or [type(error).__name__]
        clear = isinstance(error, CLEAR) or type(error).__module__.startswith("cellzoo")
        return _fail(lines[0] if clear else f"{type(error).__name__}: {lines[0]}", 2)


def run() -> NoReturn:
    """Run the console script."""
    sys.exit(main())


def _fail(message: str, status: int) -> int:
    print(f"cellzoo: {message}", file=sys.stderr)
    return status


def _dispatch(arguments: list[str], plugins: list[str], debug: bool) -> int:
    """Load the plugins, run the command and return the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    command, *rest = arguments
    if command == "--version":
        from cellzoo.names.version import __version__

        print(__version__)
        return 0
    if command not in COMMANDS:
        from cellzoo.names.registry import nearest

        raise UsageError(f"unknown command {command!r}: {nearest(command, COMMANDS)}")
    from cellzoo.names.plugins import add_plugins

    add_plugins(plugins)
    module, _, function = COMMANDS[command].partition(":")
    run: Callable[..., int] = getattr(import_module(module), function)
    if command not in ("train", "sweep") or any(text.startswith("--status") for text in rest):
        return run(rest)
    with _named(rest, command) as named:
        return run(named, debug)


@contextmanager
def _named(arguments: list[str], command: str) -> Iterator[list[str]]:
    """Yield the overrides, with a unique name unless they contain one."""
    arguments = [override for override in arguments if override not in ("name=", "name=null")]
    names = [override for override in arguments if override.startswith("name=")]
    if any("," in override for override in names):
        raise UsageError(f"name takes a single name, not {names[0]!r}")
    if names:
        yield arguments
        return
    # The other ranks of this run get the name through the environment variable.
    inherited = os.environ.get(NAME)
    stamp = f"{command}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    os.environ[NAME] = inherited or stamp
    try:
        yield [*arguments, f"name={os.environ[NAME]}"]
    finally:
        if inherited is None:
            del os.environ[NAME]
