"""The LightningModule: a model, a task, and how it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn.utils import get_total_norm

from cellzoo.names.registry import nearest
from cellzoo.run.model import SequenceModel
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
        self.scores: dict[str, tuple[float, int]] = {}  # of this validation or test, of this rank

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
        means: dict[str, Any]
        if self.trainer.world_size == 1:
            means = {name: mean.detach() for name, (mean, _) in measures.items()}
        else:
            sums, counts = self._over_ranks(_sums(measures))
            means = {name: sums[name] / counts[name] for name in sums}
            loss = loss * (count * self.trainer.world_size / counts["loss"])
        self._report("train", means)
        return loss

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Score a validation batch."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Report the split's means."""
        self._report("val", self._means())

    def test_step(self, batch: Any, batch_index: int) -> None:
        """Score a test batch."""
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        """Report the split's means."""
        self._report("test", self._means())

    def _measured(self, batch: Any) -> dict[str, Measure]:
        x, y = batch
        return self.measure(self(x), y)

    def _score(self, batch: Any) -> None:
        for name, (total, count) in _sums(self._measured(batch)).items():
            old_total, old_count = self.scores.get(name, (0.0, 0))
            self.scores[name] = (old_total + total, old_count + count)

    def _means(self) -> dict[str, float]:
        """Of a held-out split, over all ranks; every batch weighs as much as was counted in it."""
        sums, counts = self._over_ranks(self.scores)
        self.scores = {}
        return {name: sums[name] / counts[name] for name in sums}

    def _over_ranks(
        self, scores: Mapping[str, tuple[float, int]]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Sums and counts of all ranks together, alike on each, in float64.

        Lightning's own reduction averages counts as integers: an odd one loses a half.
        """
        table = torch.tensor(list(scores.values()), dtype=torch.float64, device=self.device)
        if self.trainer.world_size > 1:
            table = self.trainer.strategy.reduce(table, reduce_op="sum")
        sums, counts = table.T.tolist()
        return dict(zip(scores, sums, strict=True)), dict(zip(scores, counts, strict=True))

    def _report(self, split: Split, means: Mapping[str, Any]) -> None:
        """Log them; a loss that is not finite ends the run, on every rank at this step."""
        if not math.isfinite(means["loss"]):
            raise DivergedError(f"the {split} loss", self.global_step)
        for name, mean in means.items():
            shown = name == "loss" or f"{split}/{name}" == self.monitor
            self.log(f"{split}/{name}", mean, prog_bar=shown)

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


def _sums(measures: Mapping[str, Measure]) -> dict[str, tuple[float, int]]:
    return {name: (float(mean) * count, count) for name, (mean, count) in measures.items()}


def _named(things: Mapping[str, Any], kind: str, name: str) -> Any:
    if name not in things:
        raise ValueError(f"unknown {kind} {name!r}: {nearest(name, things)}")
    return things[name]
