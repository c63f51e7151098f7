"""The LightningModule: a model, a task, and how it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn.utils import get_total_norm

from cellzoo.model import SequenceModel
from cellzoo.registry import nearest
from cellzoo.tasks.base import Measure, Split, Task

OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
SCHEDULERS: dict[str, Any] = {
    "constant": None,
    "cosine": torch.optim.lr_scheduler.CosineAnnealingLR,
    "step": torch.optim.lr_scheduler.StepLR,
    "plateau": torch.optim.lr_scheduler.ReduceLROnPlateau,
}


class DivergedError(ArithmeticError):
    """A loss or a gradient is not finite: what, and at which step."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what} is not finite at step {step}")
        self.step = step


class Learner(LightningModule):
    """Trains a model on a task.

    Args:
        model: what is trained.
        task: asks for predictions and scores them.
        optimizer: a mapping of `name` and torch.optim's own arguments.
        scheduler: likewise, by epoch; "constant" is none.

    Raises:
        ValueError: no optimizer or scheduler has that name.
        DivergedError: in training or evaluation, a loss or gradient is not finite.
    """

    def __init__(
        self,
        model: SequenceModel,
        task: Task,
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.model = model
        self.measure = task.measure
        self.monitor, self.mode = task.monitor, task.mode
        self.optimizer_config = dict(optimizer)
        self.scheduler_config = dict(scheduler)
        self.finite = True  # the losses of this validation or test

    def forward(self, x: Any) -> Tensor:
        """The model's predictions."""
        return self.model(x)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """The loss of a training batch.

        The ranks of a run on several devices average their gradients: each weighs its loss by its
        share of the things that were counted, so that this is the mean over the whole batch.
        """
        measures = self._measured(batch)
        loss, count = measures["loss"]
        means, counts = self._over_ranks(measures)
        if not math.isfinite(means["loss"]):
            raise DivergedError("the train loss", self.global_step)
        for name, mean in means.items():
            self.log(f"train/{name}", mean, on_step=True, prog_bar=self._is_shown("train", name))
        world = self.trainer.world_size
        return loss if world == 1 else loss * (count * world / counts["loss"])

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Score a validation batch."""
        self._score("val", batch)

    def test_step(self, batch: Any, batch_index: int) -> None:
        """Score a test batch."""
        self._score("test", batch)

    def on_validation_epoch_end(self) -> None:
        """A loss that was not finite, on any rank, ends the run on all."""
        self._check_finite("val")

    def on_test_epoch_end(self) -> None:
        """Likewise."""
        self._check_finite("test")

    def _measured(self, batch: Any) -> dict[str, Measure]:
        x, y = batch
        return self.measure(self(x), y)

    def _score(self, split: Split, batch: Any) -> None:
        measures = self._measured(batch)
        self.finite &= bool(torch.isfinite(measures["loss"][0]))
        for name, (mean, count) in measures.items():
            self.log(
                f"{split}/{name}",
                mean,
                batch_size=count,  # a split's mean weighs every batch by its count
                on_step=False,
                on_epoch=True,
                sync_dist=True,
                prog_bar=self._is_shown(split, name),
            )

    def _check_finite(self, split: Split) -> None:
        finite, self.finite = self.finite, True
        if not self.trainer.strategy.reduce_boolean_decision(finite):
            raise DivergedError(f"the {split} loss", self.global_step)

    def _over_ranks(
        self, measures: Mapping[str, Measure]
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Each measure's mean over all ranks, and over how many things it was taken."""
        if self.trainer.world_size == 1:
            return {k: m.detach() for k, (m, _) in measures.items()}, {}
        sums = [(float(mean) * count, count) for mean, count in measures.values()]
        total = self.trainer.strategy.reduce(
            torch.tensor(sums, dtype=torch.float64, device=self.device), reduce_op="sum"
        ).tolist()
        counts = {name: count for name, (_, count) in zip(measures, total, strict=True)}
        return {k: s / c for k, (s, c) in zip(measures, total, strict=True)}, counts

    def _is_shown(self, split: Split, name: str) -> bool:
        return name == "loss" or f"{split}/{name}" == self.monitor

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure the gradient, before it is clipped."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        if not torch.isfinite(norm) and self.trainer.scaler is None:  # a scaler skips such steps
            raise DivergedError("a gradient", self.global_step)
        self.log("train/gradient_norm", norm)

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule."""
        options = dict(self.optimizer_config)
        optimizer = _named(OPTIMIZERS, "optimizer", options.pop("name"))(
            self.parameters(), **options
        )
        options = dict(self.scheduler_config)
        schedule = _named(SCHEDULERS, "scheduler", options.pop("name"))
        if schedule is None:
            return optimizer
        if schedule is torch.optim.lr_scheduler.ReduceLROnPlateau:
            options["mode"] = self.mode
        scheduler = {"scheduler": schedule(optimizer, **options), "monitor": self.monitor}
        scheduler["strict"] = False  # plateau: epochs without a validation leave it as it is
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def _named(things: Mapping[str, Any], kind: str, name: str) -> Any:
    if name not in things:
        raise ValueError(f"unknown {kind} {name!r}: {nearest(name, things)}")
    return things[name]
