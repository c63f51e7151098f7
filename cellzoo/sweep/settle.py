"""What engine=auto is for a sweep's jobs, settled before they run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cellzoo.run.directory import read_result
from cellzoo.run.train import settle_engine

# What a choice of engine does not depend on.
IRRELEVANT = (
    "name", "seed", "init", "optimizer", "scheduler", "early_stopping", "logger", "wandb",
)  # fmt: skip


class Settler:
    """Settles each combination of what an engine's choice depends on once.

    Args:
        note: takes a line for the user: why an engine is no faster one.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._settled: dict[str, str | None] = {}
        self._noted: set[str] = set()

    def engine(self, config: Mapping[str, Any], directory: Path) -> str | None:
        """The engine of a run; None where its model cannot be built, which the run will say."""
        if read_result(directory) is not None:
            return self._settle(config, directory)  # it may go on with the one it had
        relevant = {key: value for key, value in config.items() if key not in IRRELEVANT}
        key = json.dumps(relevant, sort_keys=True, default=str)
        if key not in self._settled:
            self._settled[key] = self._settle(config, directory)
        return self._settled[key]

    def _settle(self, config: Mapping[str, Any], directory: Path) -> str | None:
        try:
            engine, why = settle_engine(config, directory)
        except (Exception, SystemExit):  # a cell may call sys.exit
            return None
        for reason in why:
            if reason not in self._noted:
                self._noted.add(reason)
                self._note(f"engine {engine}: {reason}")
        return engine
