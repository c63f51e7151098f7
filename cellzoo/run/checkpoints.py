"""The checkpoints of a run: best.ckpt, to test and use, and last.ckpt, to resume from."""

import io
import math
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from cellzoo.run.lightning_private import completed_batches, resume_within_epoch, set_loops
from cellzoo.system.files import write_whole
from cellzoo.system.ranks import all_gather
from cellzoo.system.signals import Stop, Terminated

KEY = "cellzoo"  # the entry of last.ckpt for everything that Lightning does not save
SHARE = 50  # writing last.ckpt takes at most one part in so many of a run's time


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint completely or not at all, on any file system."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a temporary file beside `path`, then move it there."""
        buffer = io.BytesIO()  # torch.save into a file does not report a full disk
        torch.save(checkpoint, buffer)
        write_whole(Path(path), lambda target: target.write_bytes(buffer.getbuffer()))


class Best(Callback):
    """Keeps the weights and the validation metrics of the epoch with the best monitored metric.

    Args:
        path: of best.ckpt, which holds weights only.
        monitor, mode: of the task.
    """

    def __init__(self, path: Path, monitor: str, mode: str) -> None:
        self.path = path
        self.monitor = monitor
        self.sign = 1 if mode == "max" else -1
        self.metrics: dict[str, float] = {}
        self.step = 0  # at the last validation

    def on_validation_end(self, trainer: Trainer, learner: LightningModule) -> None:
        """Save the weights if the metric improved; of equal ones the first is kept."""
        now = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self.step = trainer.global_step
        old = self.metrics.get(self.monitor)
        if old is None or math.isnan(old) or self.sign * now[self.monitor] > self.sign * old:
            self.metrics = now
            if not trainer.fast_dev_run:  # type: ignore[attr-defined]
                trainer.save_checkpoint(self.path, weights_only=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for last.ckpt."""
        return {"metrics": self.metrics, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.metrics, self.step = dict(state_dict["metrics"]), state_dict["step"]


class Last(Callback):
    """Writes last.ckpt every so many seconds, and resumes a run from it exactly.

    The checkpoint is written before a batch, after optimizer and schedule have stepped and the
    epoch before is validated and logged. A run therefore resumes at one kind of point, within an
    epoch or between two, and repeats nothing. Lightning restores model, optimizer, schedules and
    callbacks. Its loops expect a checkpoint from one of their own hooks, so this callback restores
    them, and the random generators.

    Args:
        path: of last.ckpt.
        every: seconds between two checkpoints; longer where writing one takes over 1/50 of that.
        stop: notes SIGTERM: the checkpoint is then written and the run stops.
        extras: returns further entries at the time of writing.
    """

    def __init__(
        self, path: Path, every: float, stop: Stop, extras: Callable[[], dict[str, Any]]
    ) -> None:
        self.path = path
        self.every = every
        self.stop = stop
        self.extras = extras
        self.written = time.monotonic()
        self.cost = 0.0  # seconds to write the last one
        self.began = self.seconds = 0.0  # of training, in this attempt
        # The state to resume from: loops until the epoch begins, generators until the first batch.
        self.loops: dict[str, Any] | None = None
        self.generators: dict[str, Any] | None = None
        self.metrics: dict[str, Any] = {}

    # -- writing -----------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: Trainer, learner: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write the checkpoint if it is due, and stop if SIGTERM came, on all ranks alike."""
        if self.generators is not None:
            set_generators(self.generators)
            self.generators = None
        anywhere = partial(trainer.strategy.reduce_boolean_decision, all=False)
        if not anywhere(self.stop.asked or self._is_time()):
            return
        if _settled(trainer, batch_idx):
            self._write(trainer)
        if anywhere(self.stop.asked):
            raise Terminated

    def on_train_start(self, trainer: Trainer, learner: LightningModule) -> None:
        """Restore the loops; from here on, SIGTERM waits for the next batch."""
        if self.loops is not None:
            set_loops(trainer, self.loops)
        self.stop.patient = True
        self.began = time.monotonic()

    def on_train_end(self, trainer: Trainer, learner: LightningModule) -> None:
        """Write the trained state, which is tested next."""
        self.seconds = time.monotonic() - self.began
        self._write(trainer)
        self._no_patience()

    def on_validation_start(self, trainer: Trainer, learner: LightningModule) -> None:
        """Stop at once on SIGTERM: a validation has no progress to save."""
        self._no_patience()

    def on_validation_end(self, trainer: Trainer, learner: LightningModule) -> None:
        """Let SIGTERM wait for the next batch again, in training."""
        self.stop.patient = trainer.state.fn == "fit"

    def _no_patience(self) -> None:
        self.stop.patient = False
        if self.stop.asked:
            raise Terminated

    def _is_time(self) -> bool:
        return time.monotonic() - self.written >= max(self.every, SHARE * self.cost)

    def _write(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        start = time.monotonic()
        trainer.save_checkpoint(self.path)
        self.written = time.monotonic()
        self.cost = self.written - start

    # -- the state that Lightning does not save ----------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, learner: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the generators of all ranks, the metrics and the extras."""
        checkpoint[KEY] = {
            "generators": all_gather(get_generators()),
            "metrics": dict(trainer.callback_metrics),  # a schedule may read an earlier epoch's
            "should_stop": trainer.should_stop,
            **self.extras(),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, learner: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the state that is restored after Lightning's own."""
        if trainer.state.fn != "fit":
            return
        kept = checkpoint[KEY]
        self.generators = kept["generators"][trainer.global_rank]
        self.metrics = kept["metrics"]
        trainer.should_stop = kept["should_stop"]
        self.loops = checkpoint["loops"]["fit_loop"]
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        task.first_batch = completed_batches(self.loops)

    def on_train_epoch_start(self, trainer: Trainer, learner: LightningModule) -> None:
        """Continue the epoch after its completed batches."""
        if self.loops is None:
            return
        self.loops = None
        trainer.callback_metrics.update(self.metrics)
        resume_within_epoch(trainer)


def _settled(trainer: Trainer, batch: int) -> bool:
    """Return whether all earlier batches are in the weights, and no validation would repeat."""
    if batch % trainer.accumulate_grad_batches:
        return False  # a gradient is half summed
    if batch == 0:
        return True
    every, loop = trainer.val_check_batch, trainer.fit_loop
    done = batch if trainer.check_val_every_n_epoch is not None else loop.total_batch_idx
    return every in (None, math.inf) or done % every != 0


def get_generators() -> dict[str, Any]:
    """Return the states of all global random generators of this rank."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state()  # of this rank's device
    return states


def set_generators(states: dict[str, Any]) -> None:
    """Restore the states of the global random generators."""
    torch.set_rng_state(states["torch"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(states["python"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
