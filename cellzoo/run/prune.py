"""Pruning: a search ends a run early whose validation curve is poor."""

from collections.abc import Callable

from lightning import Callback, LightningModule, Trainer

# Takes an epoch and the monitored metric, and returns whether the run ends.
Pruner = Callable[[int, float], bool]


class PrunedError(RuntimeError):
    """The search ended the run."""


class Prune(Callback):
    """Ends a run after a validation where the search decides so.

    Args:
        prune: takes the epoch and the monitored metric, and returns whether the run ends.
        monitor: the name of the metric.
    """

    def __init__(self, prune: Pruner, monitor: str) -> None:
        self.prune = prune
        self.monitor = monitor

    def on_validation_end(self, trainer: Trainer, learner: LightningModule) -> None:
        """Report the metric to the search.

        Raises:
            PrunedError: the search ended the run.
        """
        value = float(trainer.callback_metrics[self.monitor])
        prune = trainer.is_global_zero and self.prune(trainer.current_epoch, value)
        if trainer.strategy.reduce_boolean_decision(prune, all=False):  # on all ranks
            raise PrunedError(f"ended by the search after epoch {trainer.current_epoch + 1}")
