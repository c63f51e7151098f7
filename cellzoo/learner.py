"""The LightningModule: a model, a task, and how it learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn.utils import get_total_norm

from cellzoo.model import SequenceModel
from cellzoo.registry import nearest
from cellzoo.tasks.base import Split, Task

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

    def forward(self, x: Any) -> Tensor:
        """The model's predictions."""
        return self.model(x)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """The loss of a training batch."""
        return self._score("train", batch)

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Score a validation batch."""
        self._score("val", batch)

    def test_step(self, batch: Any, batch_index: int) -> None:
        """Score a test batch."""
        self._score("test", batch)

    def _score(self, split: Split, batch: Any) -> Tensor:
        x, y = batch
        measures = self.measure(self(x), y)
        loss = measures["loss"][0]
        if not torch.isfinite(loss):
            raise DivergedError(f"the {split} loss", self.global_step)
        training = split == "train"
        for name, (mean, count) in measures.items():
            self.log(
                f"{split}/{name}",
                mean,
                batch_size=count,  # a split's mean weighs every batch by its count
                on_step=training,
                on_epoch=not training,
                sync_dist=not training,
                prog_bar=name == "loss" or f"{split}/{name}" == self.monitor,
            )
        return loss

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
        kind = _named(OPTIMIZERS, "optimizer", options.pop("name"))
        optimizer = kind(self._parameter_groups(options["lr"]), **options)
        options = dict(self.scheduler_config)
        schedule = _named(SCHEDULERS, "scheduler", options.pop("name"))
        if schedule is None:
            return optimizer
        if schedule is torch.optim.lr_scheduler.ReduceLROnPlateau:
            options["mode"] = self.mode
        scheduler = {"scheduler": schedule(optimizer, **options), "monitor": self.monitor}
        scheduler["strict"] = False  # plateau: epochs without a validation leave it as it is
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The parameters by learning rate and weight decay: a cell may declare its own."""
        rnn = self.model.rnn
        declared = {id(rnn.get_parameter(n)): e for n, e in rnn.extra_parameters().items()}
        groups: dict[tuple[float, bool], list[Tensor]] = {(1.0, True): []}
        for parameter in self.parameters():
            extra = declared.get(id(parameter))
            key = (extra.lr_factor, extra.weight_decay) if extra else (1.0, True)
            groups.setdefault(key, []).append(parameter)
        return [
            {"params": group, "lr": lr * factor} | ({} if decays else {"weight_decay": 0.0})
            for (factor, decays), group in groups.items()
        ]


def _named(things: Mapping[str, Any], kind: str, name: str) -> Any:
    if name not in things:
        raise ValueError(f"unknown {kind} {name!r}: {nearest(name, things)}")
    return things[name]
