"""What a run keeps of its state: best.ckpt, to test and use; last.ckpt, to go on from."""

from __future__ import annotations

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
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import distributed

from cellzoo.system.files import write_whole
from cellzoo.system.signals import Stop, Terminated

KEY = "cellzoo"  # where last.ckpt keeps what Lightning does not
SHARE = 50  # last.ckpt takes at most one part in so many of a run's time


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, whatever file system /tmp is on."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write to a temporary file beside `path`, then move it there."""
        buffer = io.BytesIO()  # torch.save into a file says nothing of a full disk
        torch.save(checkpoint, buffer)
        write_whole(Path(path), lambda target: target.write_bytes(buffer.getbuffer()))


class Best(Callback):
    """Keeps the weights and all validation metrics of the epoch whose monitored one is best.

    Args:
        path: of best.ckpt, which holds weights alone.
        monitor, mode: the task's.
    """

    def __init__(self, path: Path, monitor: str, mode: str) -> None:
        self.path = path
        self.monitor = monitor
        self.sign = 1 if mode == "max" else -1
        self.metrics: dict[str, float] = {}
        self.step = 0  # of the last validation

    def on_validation_end(self, trainer: Trainer, learner: LightningModule) -> None:
        """Compare; the first of equals stays."""
        now = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self.step = trainer.global_step
        old = self.metrics.get(self.monitor)
        if old is None or math.isnan(old) or self.sign * now[self.monitor] > self.sign * old:
            self.metrics = now
            if not trainer.fast_dev_run:  # type: ignore[attr-defined]
                trainer.save_checkpoint(self.path, weights_only=True)

    def state_dict(self) -> dict[str, Any]:
        """What last.ckpt keeps of it."""
        return {"metrics": self.metrics, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.metrics, self.step = dict(state_dict["metrics"]), state_dict["step"]


class Last(Callback):
    """Writes last.ckpt every so many seconds, and has a run go on from it to the same end.

    It is written before a batch, when all that came before is settled: optimizer and schedule
    have stepped, the epoch before is validated and logged. So there is one kind of place to go on
    from, in the midst of an epoch or between two, and nothing that would be done twice. Lightning
    restores model, optimizer, schedules and callbacks; its loops, which count on a checkpoint
    from a hook of theirs, are set here, and so are the generators.

    Args:
        path: of last.ckpt.
        every: seconds between two; more where writing one takes longer than 1/50 of that.
        stop: SIGTERM has it written, and the run stop.
        extras: what else it shall keep, of the moment when it is written.
    """

    def __init__(
        self, path: Path, every: float, stop: Stop, extras: Callable[[], dict[str, Any]]
    ) -> None:
        self.path = path
        self.every = every
        self.stop = stop
        self.extras = extras
        self.written = time.monotonic()
        self.cost = 0.0  # seconds that the last one took
        self.began = self.seconds = 0.0  # of training, in this attempt
        # What to go on from: the loops until the epoch begins, generators until the first batch.
        self.loops: dict[str, Any] | None = None
        self.generators: dict[str, Any] | None = None
        self.metrics: dict[str, Any] = {}

    # -- writing -----------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: Trainer, learner: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write, if it is time, and stop, if that was asked for; on every rank alike."""
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
        """Go on from the checkpoint; from here on, SIGTERM waits for the next batch."""
        if self.loops is not None:
            _set_loops(trainer, self.loops)
        self.stop.patient = True
        self.began = time.monotonic()

    def on_train_end(self, trainer: Trainer, learner: LightningModule) -> None:
        """Write the trained state: what is left is to test it."""
        self.seconds = time.monotonic() - self.began
        self._write(trainer)
        self._no_patience()

    def on_validation_start(self, trainer: Trainer, learner: LightningModule) -> None:
        """A validation has nothing to lose: SIGTERM need not wait for its end."""
        self._no_patience()

    def on_validation_end(self, trainer: Trainer, learner: LightningModule) -> None:
        """In training, SIGTERM waits for the next batch again."""
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

    # -- what Lightning does not keep --------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, learner: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the generators of all ranks, the metrics by name, and the extras."""
        checkpoint[KEY] = {
            "generators": _of_all_ranks(get_generators()),
            "metrics": dict(trainer.callback_metrics),  # a schedule may read those of an epoch ago
            "should_stop": trainer.should_stop,
            **self.extras(),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, learner: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what is to be set once Lightning is done restoring."""
        if trainer.state.fn != "fit":
            return
        kept = checkpoint[KEY]
        self.generators = kept["generators"][trainer.global_rank]
        self.metrics = kept["metrics"]
        trainer.should_stop = kept["should_stop"]
        self.loops = checkpoint["loops"]["fit_loop"]
        batches = self.loops["epoch_loop.batch_progress"]["current"]["completed"]
        trainer.datamodule.first_batch = batches  # type: ignore[attr-defined]

    def on_train_epoch_start(self, trainer: Trainer, learner: LightningModule) -> None:
        """In the midst of an epoch, have Lightning count on from the batches that are done."""
        if self.loops is None:
            return
        self.loops = None
        trainer.callback_metrics.update(self.metrics)
        epoch = trainer.fit_loop.epoch_loop
        if epoch.batch_progress.current.completed > 0:
            epoch.restarting = True
            epoch.update_restart_stage()


def _settled(trainer: Trainer, batch: int) -> bool:
    """Whether all before this batch is in the weights, and Lightning would not validate again."""
    if batch % trainer.accumulate_grad_batches:
        return False  # a gradient is half summed
    if batch == 0:
        return True
    every, loop = trainer.val_check_batch, trainer.fit_loop
    done = batch if trainer.check_val_every_n_epoch is not None else loop.total_batch_idx
    return every in (None, math.inf) or done % every != 0


def _set_loops(trainer: Trainer, state: dict[str, Any]) -> None:
    """Have the loops stand before a batch, as if they had come there by themselves."""
    loop = trainer.fit_loop
    loop.load_state_dict(state)
    for progress in (loop.epoch_progress, loop.epoch_loop.batch_progress):
        for tracker in (progress.total, progress.current):
            tracker.reset_on_restart()  # the batch and its epoch had been announced
    loop.epoch_loop.batch_progress.is_last_batch = False
    _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]
    loop.reset_restart_stage()


def get_generators() -> dict[str, Any]:
    """The states of all global generators, of this rank."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()  # of this rank's device
    return states


def set_generators(states: dict[str, Any]) -> None:
    """Have the global generators go on from there."""
    torch.set_rng_state(states["torch"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(states["python"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def _of_all_ranks(mine: Any) -> list[Any]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, mine)
    return gathered
