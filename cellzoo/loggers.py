"""Where a run's values go: metrics.csv always, W&B where asked."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from cellzoo.config import flatten


def is_main_process() -> bool:
    """Whether this process is rank 0, which alone writes files and talks."""
    return getattr(rank_zero_only, "rank", 0) == 0


def make_loggers(
    config: Mapping[str, Any], directory: Path, group: str | None, parameters: int
) -> list[Logger]:
    """The loggers of a run.

    Args:
        config: the resolved config.
        directory: the run's.
        group: the sweep's name, which groups its runs in W&B; None for a single run.
        parameters: how many the model has.
    """
    loggers: list[Logger] = [CSVLogger(directory, name="", version="")]
    if config["logger"]["wandb"] and is_main_process():
        run = _start_wandb(config, directory, group, parameters)
        loggers.append(WandbLogger(experiment=run, save_dir=directory, log_model=False))
    return loggers


def _start_wandb(
    config: Mapping[str, Any], directory: Path, group: str | None, parameters: int
) -> Any:
    import wandb

    said = config["wandb"]
    cell, init, task = (config[key]["name"] for key in ("cell", "init", "task"))
    named = {"cell": cell, "init": init, "task": task}
    return wandb.init(
        name=f"{cell}-{init}-h{config['hidden_size']}-s{config['seed']}",
        dir=directory,
        # Said here, the mode holds whatever the environment or a key lying around suggest.
        mode=said["mode"],
        project=said["project"],
        entity=said["entity"],
        group=group or "",
        # Its own run, whatever WANDB_RUN_ID a parent left around.
        id=secrets.token_hex(4),
        resume="never",
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


@rank_zero_only
def finish(loggers: list[Logger], result: Mapping[str, Any], directory: Path) -> None:
    """End the W&B run, if there is one, with the result in its summary and its exit code.

    What goes wrong there is said in train.log: the run itself is on disk already.
    """
    import wandb

    for logger in loggers:
        if isinstance(logger, WandbLogger) and wandb.run is not None:
            try:
                _end_wandb(wandb, result)
            except Exception as error:
                with (directory / "train.log").open("a") as log:
                    log.write(f"W&B could not end the run: {error}\n")


def _end_wandb(wandb: Any, result: Mapping[str, Any]) -> None:
    summary = {f"best/{k}": v for k, v in result["metrics"].items() if k[:4] == "val/"}
    wandb.run.summary.update(summary)
    keys = ("status", "reason", "step", "seconds", "steps", "monitor", "mode")
    wandb.run.config.update({key: result[key] for key in keys})
    wandb.finish(exit_code=0 if result["status"] == "done" else 1)
