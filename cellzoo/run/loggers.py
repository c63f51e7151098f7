"""The loggers of a run: metrics.csv always, W&B where the config asks for it."""

import csv
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from cellzoo.config.identity import flatten, world_size
from cellzoo.config.schema import RunConfig
from cellzoo.run.result import RunResult, Status
from cellzoo.system.files import write_whole
from cellzoo.system.ranks import is_main_process


class MetricsFile:
    """metrics.csv: one row for each logging call, flushed at once.

    Args:
        path: of the file.
        keep: the number of rows to keep of an earlier attempt; later rows are computed again.
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
        """Write a row; a new column rewrites the file."""
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
        """Flush the rows to disk and return their number."""
        if self.file is not None:
            os.fsync(self.file.fileno())
        return self.rows

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        def write(target: Path) -> None:
            with target.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(rows)

        self.close()
        write_whole(self.path, write)
        self.file = self.path.open("a", newline="")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a metrics.csv by column; a value that was not logged is empty."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file, restval=""))


class RunLogger(Logger):
    """The logger that Lightning calls: it writes metrics.csv and sends the same rows to W&B.

    A row of the file is a step of W&B's history. A resumed run sends the kept rows again under the
    same id: offline they form the run's new file, online W&B ignores the rows that it has.

    Only rank 0 logs.

    Args:
        directory: of the run.
        keep: the number of rows to keep of an earlier attempt.
    """

    def __init__(self, directory: Path, keep: int = 0) -> None:
        super().__init__()
        self.directory = directory
        self.wandb: Any = None
        self.metrics = MetricsFile(directory / "metrics.csv", keep) if is_main_process() else None

    @property
    def name(self) -> str:
        """Return nothing: Lightning would make a folder of this name."""
        return ""

    @property
    def version(self) -> str:
        """Return nothing, for the same reason."""
        return ""

    @property
    def save_dir(self) -> str:
        """Return the directory of the run."""
        return str(self.directory)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: config.yaml and W&B's config hold the settings."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a row of metrics.csv and send it to W&B."""
        assert self.metrics is not None
        self.metrics.append({**metrics, "step": step})
        if self.wandb is not None:
            self._send(metrics, step, self.metrics.rows - 1)

    def _send(self, values: Mapping[str, Any], step: Any, row: int) -> None:
        self.wandb.log({**values, "trainer/global_step": step}, step=row)

    def start_wandb(
        self, config: RunConfig, group: str | None, parameters: int, run_id: str
    ) -> None:
        """Begin or resume the W&B run.

        Args:
            config: of the run.
            group: the name of the sweep; None for a single run.
            parameters: the number of the model's parameters.
            run_id: of the W&B run; it overrides an inherited WANDB_RUN_ID.
        """
        assert self.metrics is not None
        # metrics.csv holds the values of earlier attempts, and one run is one W&B file.
        for old in (self.directory / "wandb").glob(f"*run-*-{run_id}"):
            shutil.rmtree(old)
        self.wandb = _start_wandb(config, self.directory, group, parameters, run_id)
        for number, row in enumerate(read_rows(self.metrics.path)):
            values = {name: _number(text) for name, text in row.items() if text}
            self._send(values, values.pop("step"), number)

    def sync(self) -> int:
        """Flush the rows of metrics.csv to disk and return their number."""
        return self.metrics.sync() if self.metrics is not None else 0

    @rank_zero_only
    def finish(self, result: RunResult) -> None:
        """End the W&B run, with the result in its summary and its exit code.

        A failure of W&B is recorded in train.log: the run itself is on disk already.
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
    config: RunConfig, directory: Path, group: str | None, parameters: int, run_id: str
) -> Any:
    import wandb

    options = config.wandb
    names = {key: getattr(config, key).name for key in ("cell", "init", "task")}
    facts = {"parameters": parameters, "world_size": world_size(config.trainer)}
    run = wandb.init(
        name=f"{names['cell']}-{names['init']}-h{config.hidden_size}-s{config.seed}",
        dir=directory,
        # An explicit mode overrides the environment and a stored key.
        mode=options.mode,  # type: ignore[arg-type]
        project=options.project,
        entity=options.entity,
        group=group or "",
        id=run_id,
        resume="allow" if options.mode == "online" else None,
        job_type=names["cell"],
        tags=[*names.values(), *options.tags],
        config={**flatten(config.to_mapping()), **names, **facts},
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=not options.save_code,
            save_code=options.save_code,
        ),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run


def _end_wandb(run: Any, result: RunResult) -> None:
    summary = {f"best/{k}": v for k, v in result.metrics.items() if k[:4] == "val/"}
    run.summary.update(summary)
    keys = ("reason", "step", "seconds", "steps", "monitor", "mode")
    facts = {"status": str(result.status), **{key: getattr(result, key) for key in keys}}
    run.config.update(facts, allow_val_change=True)
    run.finish(exit_code=0 if result.status in (Status.DONE, Status.PRUNED) else 1)
