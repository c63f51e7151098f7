"""Ending a run early, because its validation curve promises little."""

from __future__ import annotations

from collections.abc import Callable

from lightning import Callback, LightningModule, Trainer


class PrunedError(RuntimeError):
    """A search ended the run."""


class Prune(Callback):
    """Asks after each validation whether to go on.

    Args:
        prune: from the epoch and the monitored metric to whether the run ends here.
        monitor: the metric's name.
    """

    def __init__(self, prune: Callable[[int, float], bool], monitor: str) -> None:
        self.prune = prune
        self.monitor = monitor

    def on_validation_end(self, trainer: Trainer, learner: LightningModule) -> None:
        """Ask.

        Raises:
            PrunedError: the run is to end.
        """
        value = float(trainer.callback_metrics[self.monitor])
        end = trainer.is_global_zero and self.prune(trainer.current_epoch, value)
        if trainer.strategy.reduce_boolean_decision(end, all=False):  # for all ranks
            raise PrunedError(f"ended by the search after epoch {trainer.current_epoch + 1}")
