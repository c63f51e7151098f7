"""Where a run's values go: metrics.csv always, W&B where asked."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from cellzoo.config.compose import flatten
from cellzoo.system.files import write_whole


def global_rank() -> int:
    """Which of the processes of a run this is; 0 for one alone."""
    return getattr(rank_zero_only, "rank", 0)


def is_main_process() -> bool:
    """Whether this process is rank 0, which alone writes files and talks."""
    return global_rank() == 0


class MetricsFile:
    """metrics.csv: a row each time that values are logged, on disk at once.

    Args:
        path: the file's.
        keep: how many rows of an earlier attempt stay; what it wrote after them is computed again.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self.columns: list[str] = []
        self.file: TextIO | None = None
        self.rows = keep
        if keep:
            kept = read_rows(path)[:keep]
            self.columns = list(kept[0])
            self._rewrite(kept)
        else:
            path.unlink(missing_ok=True)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row; a new column has the file written anew."""
        if new := set(row) - set(self.columns):
            before = read_rows(self.path)
            self.columns = sorted({*self.columns, *new})
            self._rewrite([*before, row])
        else:
            assert self.file is not None
            csv.DictWriter(self.file, self.columns).writerow(row)
            self.file.flush()
        self.rows += 1

    def sync(self) -> int:
        """Have the rows survive the machine, and say how many there are."""
        if self.file is not None:
            os.fsync(self.file.fileno())
        return self.rows

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _rewrite(self, rows: list[Mapping[str, Any]] | list[dict[str, str]]) -> None:
        def write(target: Path) -> None:
            with target.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(rows)

        self.close()
        write_whole(self.path, write)
        self.file = self.path.open("a", newline="")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, by column; a value that was not logged is empty."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file, restval=""))


class RunLogger(Logger):
    """Lightning's logger of a run: metrics.csv, and W&B, which is a view of it.

    A row of the file is a step of W&B's history. A run that goes on sends W&B the rows that the
    file keeps once more, under the same id: offline they make up the run's new file; online W&B
    leaves out those that it has.

    On other ranks than the first it does nothing.
    """

    def __init__(self, directory: Path, keep: int = 0) -> None:
        super().__init__()
        self.directory = directory
        self.wandb: Any = None
        self.metrics = MetricsFile(directory / "metrics.csv", keep) if is_main_process() else None

    @property
    def name(self) -> str:
        """Nothing: Lightning would make a folder of it."""
        return ""

    @property
    def version(self) -> str:
        """Nothing, likewise."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's directory."""
        return str(self.directory)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: config.yaml and W&B's config have them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a row."""
        assert self.metrics is not None
        self.metrics.append({**metrics, "step": step})
        if self.wandb is not None:
            self._send(metrics, step, self.metrics.rows - 1)

    def _send(self, values: Mapping[str, Any], step: Any, row: int) -> None:
        self.wandb.log({**values, "trainer/global_step": step}, step=row)

    def start_wandb(
        self, config: Mapping[str, Any], group: str | None, parameters: int, run_id: str
    ) -> None:
        """Begin the W&B run, or go on with it.

        Args:
            config: the resolved config.
            group: the sweep's name, which groups its runs; None for a single run.
            parameters: how many the model has.
            run_id: the run's own, whatever WANDB_RUN_ID a parent left around.
        """
        assert self.metrics is not None
        # What an earlier attempt left is in metrics.csv, and one run is one file.
        for old in (self.directory / "wandb").glob(f"*run-*-{run_id}"):
            shutil.rmtree(old)
        self.wandb = _start_wandb(config, self.directory, group, parameters, run_id)
        for number, row in enumerate(read_rows(self.metrics.path)):
            values = {name: _number(text) for name, text in row.items() if text}
            self._send(values, values.pop("step"), number)

    def sync(self) -> int:
        """Have the rows of metrics.csv survive the machine, and say how many there are."""
        return self.metrics.sync() if self.metrics is not None else 0

    @rank_zero_only
    def finish(self, result: Mapping[str, Any]) -> None:
        """End the W&B run, if there is one, with the result in its summary and its exit code.

        What goes wrong there is said in train.log: the run itself is on disk already.
        """
        if self.metrics is not None:
            self.metrics.close()
        if self.wandb is not None:
            try:
                _end_wandb(self.wandb, result)
            except Exception as error:
                with (self.directory / "train.log").open("a") as log:
                    log.write(f"W&B could not end the run: {error}\n")


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _start_wandb(
    config: Mapping[str, Any], directory: Path, group: str | None, parameters: int, run_id: str
) -> Any:
    import wandb

    said = config["wandb"]
    cell, init, task = (config[key]["name"] for key in ("cell", "init", "task"))
    named = {"cell": cell, "init": init, "task": task}
    run = wandb.init(
        name=f"{cell}-{init}-h{config['hidden_size']}-s{config['seed']}",
        dir=directory,
        # Said here, the mode holds whatever the environment or a key lying around suggest.
        mode=said["mode"],
        project=said["project"],
        entity=said["entity"],
        group=group or "",
        id=run_id,
        resume="allow" if said["mode"] == "online" else None,
        job_type=cell,
        tags=[cell, init, task, *said["tags"]],
        config={**flatten(config), **named, "parameters": parameters},
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=not said["save_code"],
            save_code=said["save_code"],
        ),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run


def _end_wandb(run: Any, result: Mapping[str, Any]) -> None:
    summary = {f"best/{k}": v for k, v in result["metrics"].items() if k[:4] == "val/"}
    run.summary.update(summary)
    keys = ("status", "reason", "step", "seconds", "steps", "monitor", "mode")
    run.config.update({key: result[key] for key in keys}, allow_val_change=True)
    run.finish(exit_code=0 if result["status"] in ("done", "pruned") else 1)
