"""The files of a sweep, beside its runs.

sweep.yaml          the commands of the sweep, the last one last
planned.csv         the jobs that the last command has reached: number, run, overrides
attempts.csv        every attempt at a job that ended: slot, times, end
jobs/               the order of each job, and the output of its processes
plugins/            copies of the plugins' source, from which the sweep runs
.lock               held by the sweep's process
"""

import csv
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from cellzoo.config.schema import Plugin, RunConfig
from cellzoo.names.plugins import VARIABLE, code_hash, listed_plugins
from cellzoo.run.directory import RunError
from cellzoo.system.files import write_whole
from cellzoo.system.locks import hold


@dataclass
class Record:
    """The files of a sweep.

    Attributes:
        directory: of the sweep.
        copies: the copies of the plugins' source, by the original files.
    """

    directory: Path
    copies: dict[Path, Path] = field(default_factory=dict)

    def keep_plugins(self) -> dict[str, str]:
        """Copy the plugins that are files, and return the environment that names the copies.

        A plugin that is edited while the sweep runs does not change the sweep.
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

    def with_kept_plugins(self, config: RunConfig) -> RunConfig:
        """Return a config whose plugins are the sweep's copies."""
        kept = {
            kind: Plugin(str(copy), code_hash(copy))
            for kind, plugin in config.plugins.items()
            if (copy := self.copies.get(Path(plugin.file)))
        }
        return replace(config, plugins={**config.plugins, **kept})

    def begin(self, overrides: list[str], jobs: int) -> list[str]:
        """Add a command to sweep.yaml, and return its differences from the last one, in lines."""
        commands = read_commands(self.directory)
        command = {
            "at": time.strftime("%Y-%m-%d %H:%M:%S"),
            "overrides": [text for text in overrides if not text.startswith("launcher")],
            "jobs": jobs,
            "plugins": {str(path): code_hash(copy) for path, copy in self.copies.items()},
        }
        self._write([*commands, command])
        self._first_before = next((row["run"] for row in read_planned(self.directory)), None)
        columns = ("number", "run", "overrides")
        write_whole(self.directory / "planned.csv", lambda path: _write_row(path, columns))
        self._same_command = bool(commands) and all(
            commands[-1][key] == command[key] for key in ("overrides", "plugins")
        )
        return _differences(commands[-1], command) if commands else []

    def add(self, **facts: Any) -> None:
        """Add facts to the command in sweep.yaml."""
        *earlier, command = read_commands(self.directory)
        self._write([*earlier, {**command, **facts}])

    def plan(self, number: int, run: str, label: str) -> str | None:
        """Add a job to planned.csv, and return a line to print, if there is one."""
        _write_row(self.directory / "planned.csv", (number, run, label))
        if number == 1 and self._same_command and self._first_before not in (None, run):
            return "the configuration has changed: these are new runs, beside the earlier ones"
        return None

    def _write(self, commands: list[dict[str, Any]]) -> None:
        text = yaml.safe_dump({"commands": commands}, sort_keys=False)
        write_whole(self.directory / "sweep.yaml", lambda path: path.write_text(text))


@contextmanager
def open_record(directory: Path) -> Iterator[Record]:
    """Yield the record of a sweep, which this process alone may write.

    Raises:
        LockedError: another sweep runs in the directory.
        RunError: the directory holds a single run.
    """
    if (directory / "config.yaml").exists():
        raise RunError(f"{directory} holds a single run: choose another name=")
    with hold(directory / ".lock"):
        yield Record(directory)


def read_commands(directory: Path) -> list[dict[str, Any]]:
    """Return the commands of a sweep, the last one last.

    Raises:
        RunError: sweep.yaml cannot be read.
    """
    path = directory / "sweep.yaml"
    try:
        return list(yaml.safe_load(path.read_text())["commands"])
    except FileNotFoundError:
        return []
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise RunError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def read_planned(directory: Path) -> list[dict[str, str]]:
    """Return the jobs that the last command has reached."""
    return _rows(directory / "planned.csv")


def read_attempts(directory: Path) -> list[dict[str, str]]:
    """Return every attempt at a job that ended."""
    return _rows(directory / "attempts.csv")


def log_attempt(
    directory: Path, run: str, attempt: int, slot: int, started: float, end: str
) -> None:
    """Add an attempt that ended just now to attempts.csv."""
    path = directory / "attempts.csv"
    if not path.exists():
        _write_row(path, ("run", "attempt", "slot", "started", "ended", "how"))
    _write_row(path, (run, attempt, slot, f"{started:.3f}", f"{time.time():.3f}", end))


def _rows(path: Path) -> list[dict[str, str]]:
    """Return the complete rows of a CSV file; a killed sweep may have left half of one."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]


def _write_row(path: Path, row: Sequence[Any]) -> None:
    with path.open("a", newline="") as file:
        csv.writer(file).writerow(row)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    lines = []
    for path, code in now["plugins"].items():
        if before["plugins"].get(path, code) != code:
            lines.append(f"{Path(path).name} was edited: its runs are new ones, beside the earlier")
    if before["overrides"] != now["overrides"]:
        overrides = " ".join(before["overrides"])
        lines.append(f"the last command had other overrides ({overrides}): its runs are kept")
    return lines
