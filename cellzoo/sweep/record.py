"""A sweep's own files, in its directory beside its runs.

sweep.yaml          what was asked for, each time
planned.csv         the jobs that the last command has come to: number, run, overrides
attempts.csv        every attempt at a job: slot, times, how it ended
jobs/               each job's order, and what its process printed
plugins/            the source that the sweep runs with, whatever becomes of the original
.lock               held by the sweep's process
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from cellzoo.names.plugins import VARIABLE, code_hash, listed_plugins
from cellzoo.run.directory import RunError
from cellzoo.system.files import write_whole
from cellzoo.system.locks import hold

PLANNED = ("number", "run", "overrides")


@dataclass
class Record:
    """The files of a sweep.

    Attributes:
        directory: the sweep's.
        copies: the sources that are kept, by the files that they were copied from.
    """

    directory: Path
    copies: dict[Path, Path] = field(default_factory=dict)

    @property
    def jobs(self) -> Path:
        """The folder of orders and logs."""
        return self.directory / "jobs"

    def keep_plugins(self) -> dict[str, str]:
        """Copy the source of the plugins that are files; returns the environment that names them.

        A cell that is edited while the sweep runs changes nothing in it.
        """
        plugins = []
        for plugin in listed_plugins():
            path = Path(plugin)
            if path.is_file():
                copy = self.directory / "plugins" / code_hash(path)[:8] / path.name
                source = path.read_text()
                write_whole(copy, partial(Path.write_text, data=source))
                self.copies[path] = copy.resolve()
                plugin = str(copy.resolve())
            plugins.append(plugin)
        return {VARIABLE: os.pathsep.join(plugins)} if plugins else {}

    def with_kept_plugins(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config whose plugins are the sweep's copies, whatever the originals are by now."""
        plugins = dict(config["plugins"])
        for kind, plugin in plugins.items():
            if copy := self.copies.get(Path(plugin["file"])):
                plugins[kind] = {"file": str(copy), "sha256": code_hash(copy)}
        return {**config, "plugins": plugins}

    def begin(self, overrides: list[str], jobs: int) -> list[str]:
        """Add a command to sweep.yaml.

        Returns:
            What it asks differently than the one before, in lines.
        """
        commands = read_commands(self.directory)
        plugins = {str(path): code_hash(copy) for path, copy in self.copies.items()}
        overrides = [each for each in overrides if not each.startswith("launcher")]
        command = {"at": time.strftime("%Y-%m-%d %H:%M:%S"), "overrides": overrides, "jobs": jobs}
        command["plugins"] = plugins
        self._write([*commands, command])
        self._first_before = next((row["run"] for row in read_planned(self.directory)), None)
        write_whole(self.directory / "planned.csv", lambda path: _write_row(path, PLANNED))
        self._same_command = bool(commands) and (
            commands[-1]["overrides"] == overrides and commands[-1]["plugins"] == plugins
        )
        return _differences(commands[-1], command) if commands else []

    def add(self, **facts: Any) -> None:
        """Add facts to the command in sweep.yaml."""
        *earlier, command = read_commands(self.directory)
        self._write([*earlier, {**command, **facts}])

    def plan(self, number: int, run: str, overrides: str) -> str | None:
        """Add a job to planned.csv. Returns what is to be said of it, if anything."""
        _write_row(self.directory / "planned.csv", (number, run, overrides))
        if number == 1 and self._same_command and self._first_before not in (None, run):
            return "the configuration is not what it was: these are new runs, beside the earlier"
        return None

    def _write(self, commands: list[dict[str, Any]]) -> None:
        text = yaml.safe_dump({"commands": commands}, sort_keys=False)
        write_whole(self.directory / "sweep.yaml", lambda path: path.write_text(text))


@contextmanager
def open_record(directory: Path) -> Iterator[Record]:
    """The record of a sweep that this process alone may write to.

    Raises:
        LockedError: another sweep runs in the directory.
        RunError: it holds a single run.
    """
    if (directory / "config.yaml").exists():
        raise RunError(f"{directory} holds a single run: choose another name=")
    with hold(directory / ".lock"):
        yield Record(directory)


def read_commands(directory: Path) -> list[dict[str, Any]]:
    """The commands that a sweep was asked for by, the last one last.

    Raises:
        RunError: sweep.yaml cannot be read.
    """
    path = directory / "sweep.yaml"
    try:
        return yaml.safe_load(path.read_text())["commands"]
    except FileNotFoundError:
        return []
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise RunError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def read_planned(directory: Path) -> list[dict[str, str]]:
    """The jobs that the last command has come to."""
    return _rows(directory / "planned.csv")


def read_attempts(directory: Path) -> list[dict[str, str]]:
    """Every attempt at a job that ended."""
    return _rows(directory / "attempts.csv")


def log_attempt(
    directory: Path, run: str, attempt: int, slot: int, started: float, how: str
) -> None:
    """Add an attempt that ended just now to attempts.csv."""
    path = directory / "attempts.csv"
    if not path.exists():
        _write_row(path, ("run", "attempt", "slot", "started", "ended", "how"))
    _write_row(path, (run, attempt, slot, f"{started:.3f}", f"{time.time():.3f}", how))


def _rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a CSV file; a sweep that was killed may have left half of one."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]


def _write_row(path: Path, row: tuple[Any, ...]) -> None:
    with path.open("a", newline="") as file:
        csv.writer(file).writerow(row)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    said = []
    for path, code in now["plugins"].items():
        if before["plugins"].get(path, code) != code:
            said.append(f"{Path(path).name} was edited: its runs are new ones, beside the earlier")
    if before["overrides"] != now["overrides"]:
        words = " ".join(before["overrides"])
        said.append(f"asked for before with {words}: what differs is run beside what is there")
    return said
