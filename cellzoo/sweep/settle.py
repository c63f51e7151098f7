"""The engine that "auto" stands for in each job, settled before the job runs."""

import json
from collections.abc import Callable
from pathlib import Path

from cellzoo.config.schema import RunConfig
from cellzoo.run.build import settle_engine
from cellzoo.run.directory import read_result

# Keys that the choice of an engine does not depend on.
IRRELEVANT = (
    "name", "seed", "init", "optimizer", "scheduler", "early_stopping", "logger", "wandb",
)  # fmt: skip


class EngineSettler:
    """Settles the engine once for all configs that differ in irrelevant keys alone.

    Args:
        note: prints a line: a reason against a faster engine.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._settled: dict[str, str | None] = {}
        self._noted: set[str] = set()

    def engine(self, config: RunConfig, directory: Path) -> str | None:
        """Return the engine of a run; None if its model cannot be built, which the run records."""
        if read_result(directory) is not None:
            return self._settle(config, directory)  # a resumed run keeps its engine
        mapping = config.to_mapping()
        relevant = {key: value for key, value in mapping.items() if key not in IRRELEVANT}
        key = json.dumps(relevant, sort_keys=True, default=str)
        if key not in self._settled:
            self._settled[key] = self._settle(config, directory)
        return self._settled[key]

    def _settle(self, config: RunConfig, directory: Path) -> str | None:
        try:
            engine, reasons = settle_engine(config, directory)
        except (Exception, SystemExit):  # a cell may call sys.exit
            return None
        for reason in reasons:
            if reason not in self._noted:
                self._noted.add(reason)
                self._note(f"engine {engine}: {reason}")
        return engine
