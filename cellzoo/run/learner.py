"""The LightningModule: a model, a task and an optimizer."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn.utils import get_total_norm

from cellzoo.config.schema import Optimizer, Scheduler
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
    """A loss or a gradient is not finite; `step` is the training step."""

    def __init__(self, quantity: str, step: int) -> None:
        super().__init__(f"{quantity} is not finite at step {step}")
        self.step = step


class Learner(LightningModule):
    """Trains a model on a task.

    Args:
        model: the model to train.
        task: measures the predictions.
        optimizer: its name, and arguments of the class in torch.optim.
        scheduler: likewise, by epoch; "constant" is none.

    Raises:
        ValueError: no optimizer or scheduler has that name.
        DivergedError: in training or evaluation, a loss or gradient is not finite.
    """

    def __init__(
        self, model: SequenceModel, task: Task, optimizer: Optimizer, scheduler: Scheduler
    ) -> None:
        super().__init__()
        self.model = model
        self.measure = task.measure
        self.monitor, self.mode = task.monitor, task.mode
        self.optimizer_config = optimizer
        self.scheduler_config = scheduler
        # Sums and counts of the current validation or test, of this rank.
        self.scores: dict[str, tuple[float, int]] = {}

    def forward(self, x: Any) -> Tensor:
        """Return the model's predictions."""
        prediction: Tensor = self.model(x)
        return prediction

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Return the loss of a training batch.

        The ranks of a run on several devices average their gradients. Each rank weighs its loss by
        its share of the counted elements, so that the average is the mean over the whole batch.
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
        """Add the scores of a validation batch."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the means of the validation split."""
        self._report("val", self._means())

    def test_step(self, batch: Any, batch_index: int) -> None:
        """Add the scores of a test batch."""
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        """Log the means of the test split."""
        self._report("test", self._means())

    def _measured(self, batch: Any) -> dict[str, Measure]:
        x, y = batch
        return self.measure(self(x), y)

    def _score(self, batch: Any) -> None:
        for name, (total, count) in _sums(self._measured(batch)).items():
            old_total, old_count = self.scores.get(name, (0.0, 0))
            self.scores[name] = (old_total + total, old_count + count)

    def _means(self) -> dict[str, float]:
        """Return the means over a held-out split and all ranks, weighted by count."""
        sums, counts = self._over_ranks(self.scores)
        self.scores = {}
        return {name: sums[name] / counts[name] for name in sums}

    def _over_ranks(
        self, scores: Mapping[str, tuple[float, int]]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Return sums and counts over all ranks, equal on each rank, in float64.

        Lightning's own reduction averages counts as integers: an odd count loses a half.
        """
        table = torch.tensor(list(scores.values()), dtype=torch.float64, device=self.device)
        if self.trainer.world_size > 1:
            table = self.trainer.strategy.reduce(table, reduce_op="sum")
        sums, counts = table.T.tolist()
        return dict(zip(scores, sums, strict=True)), dict(zip(scores, counts, strict=True))

    def _report(self, split: Split, means: Mapping[str, Any]) -> None:
        """Log means; a loss that is not finite ends the run on every rank at this step."""
        if not math.isfinite(means["loss"]):
            raise DivergedError(f"the {split} loss", self.global_step)
        for name, mean in means.items():
            shown = name == "loss" or f"{split}/{name}" == self.monitor
            self.log(f"{split}/{name}", mean, prog_bar=shown)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the gradient's norm, before it is clipped."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        if not torch.isfinite(norm) and self.trainer.scaler is None:  # a scaler skips such steps
            raise DivergedError("a gradient", self.global_step)
        self.log("train/gradient_norm", norm)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule."""
        options = self.optimizer_config.options
        kind = _named(OPTIMIZERS, "optimizer", self.optimizer_config.name)
        optimizer = kind(self._parameter_groups(options["lr"]), **options)
        options = self.scheduler_config.options
        schedule = _named(SCHEDULERS, "scheduler", self.scheduler_config.name)
        if schedule is None:
            return optimizer
        if schedule is torch.optim.lr_scheduler.ReduceLROnPlateau:
            options["mode"] = self.mode
        scheduler = {"scheduler": schedule(optimizer, **options), "monitor": self.monitor}
        scheduler["strict"] = False  # plateau: an epoch without a validation changes nothing
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Group the parameters by learning rate and weight decay, which a cell may declare."""
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


def _named(known: Mapping[str, Any], kind: str, name: str) -> Any:
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}: {nearest(name, known)}")
    return known[name]
