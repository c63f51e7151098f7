"""The result of a run, as result.json holds it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Self


class Status(StrEnum):
    """The status of a run.

    Attributes:
        LEFT: nothing has begun.
        RUNNING: a process runs it.
        INTERRUPTED: it was stopped or killed, and resumes from its last checkpoint.
        DONE: it was trained and tested.
        DIVERGED: a loss or gradient was not finite; it is never retried.
        PRUNED: a search ended it early.
        FAILED: anything else went wrong; the reason is recorded.
    """

    LEFT = "left"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    DONE = "done"
    DIVERGED = "diverged"
    PRUNED = "pruned"
    FAILED = "failed"


# A run with one of these is finished: no command runs it again.
ENDED = (Status.DONE, Status.DIVERGED)
# A run with one of these says nothing about its cell.
UNFINISHED = (Status.LEFT, Status.RUNNING, Status.INTERRUPTED, Status.PRUNED)


@dataclass
class AttemptRecord:
    """One attempt at a run.

    Attributes:
        started: its time, in ISO format.
        resumed_from: "the beginning", with the reason if there was a checkpoint; or "step N".
        ended: the status, with the reason; None while it runs.
    """

    started: str
    resumed_from: str
    ended: str | None = None


@dataclass
class RunResult:
    """The result of a run.

    Attributes:
        status, reason: how it stands, and why it is not done.
        step: the step at which it diverged.
        cell, task, init, hidden_size, seed: of its config.
        parameters: trainable numbers of the model.
        metrics: validation metrics of the best checkpoint, and its test metrics; None: not finite.
        monitor, mode: the validation metric that picks the best checkpoint, and "min" or "max".
        seconds: of work, all attempts together.
        steps, steps_per_second: training steps, and their rate in the last attempt.
        engine: the engine that ran, by name.
        engine_choice: the engine in words, with the reasons against faster ones.
        identity: the hash of its config.
        threads: of torch, per process.
        world_size: processes that train together.
        wandb: the id of the W&B run.
        attempts: every attempt, the first one first.
        cellzoo, torch: versions.
        input_size, output_size, reads: of the task.
    """

    cell: str
    task: str
    init: str
    hidden_size: int
    seed: int
    identity: str
    world_size: int = 1
    status: Status = Status.RUNNING
    reason: str | None = None
    step: int | None = None
    parameters: int | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    monitor: str | None = None
    mode: str | None = None
    seconds: float | None = None
    steps: int | None = None
    steps_per_second: float | None = None
    engine: str | None = None
    engine_choice: str | None = None
    threads: int | None = None
    wandb: str | None = None
    attempts: list[AttemptRecord] = field(default_factory=list)
    cellzoo: str | None = None
    torch: str | None = None
    input_size: int | None = None
    output_size: int | None = None
    reads: str | None = None

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build a result from result.json, that of version 0.1.0 included.

        Raises:
            KeyError, TypeError, ValueError: it lacks a value, or its status is unknown.
        """
        values = dict(mapping)
        if "setting" in values:  # 0.1.0
            values["engine_choice"], values["engine"] = values["engine"], values.pop("setting")
            values["world_size"] = values.pop("ranks")
        attempts = [
            AttemptRecord(
                record["started"], record.get("resumed_from", record.get("from")), record["ended"]
            )
            for record in values.get("attempts", [])
        ]
        known = {each.name for each in fields(cls)}
        values = {key: value for key, value in values.items() if key in known}
        return cls(**{**values, "status": Status(values["status"]), "attempts": attempts})

    def to_mapping(self) -> dict[str, Any]:
        """Return the result as plain containers, the status first."""
        mapping = asdict(self)
        return {"status": str(self.status), **{k: v for k, v in mapping.items() if k != "status"}}

    @property
    def outcome(self) -> str:
        """Return the status with its reason: `failed: ValueError: …`."""
        return f"{self.status}: {self.reason}" if self.reason else str(self.status)

    @property
    def monitored(self) -> float | None:
        """Return the monitored validation metric; None where there is none or it is not finite."""
        return self.metrics.get(self.monitor) if self.monitor else None
