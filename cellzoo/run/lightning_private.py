"""Lightning's private parts that cellzoo relies on, verified with Lightning 2.6.

Nothing outside this file touches them.
"""

import subprocess
from collections.abc import Callable
from typing import Any

from lightning import Trainer
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher


class RankLauncher(_SubprocessScriptLauncher):
    """Starts the other ranks and does not watch them: Lightning's watch would kill rank 0."""

    def launch(
        self,
        function: Callable[..., Any],
        *args: Any,
        trainer: Trainer | None = None,
        **kwargs: Any,
    ) -> Any:
        """Start the other ranks, unless another program starts them, and call the function."""
        self.cluster_environment.validate_settings(
            num_devices=self.num_processes, num_nodes=self.num_nodes
        )
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        return function(*args, **kwargs)

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """Return the started processes."""
        return list(self.procs)


def replace_launcher(trainer: Trainer) -> RankLauncher | None:
    """Have a trainer start its ranks by a `RankLauncher`; None if the run is of one process."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return None
    replaced = RankLauncher(
        launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
    )
    trainer.strategy._launcher = replaced
    return replaced


def leave_signals_alone(trainer: Trainer) -> None:
    """Keep a trainer from installing signal handlers.

    Its handler of SIGTERM communicates with the other ranks, which may be communicating already.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None


def set_loops(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put the loops before a batch, as if they had come there by training."""
    loop = trainer.fit_loop
    loop.load_state_dict(state)
    for progress in (loop.epoch_progress, loop.epoch_loop.batch_progress):
        for tracker in (progress.total, progress.current):
            tracker.reset_on_restart()  # the batch and its epoch had been announced
    loop.epoch_loop.batch_progress.is_last_batch = False
    restarting: Any = _Loop.restarting
    restarting.fset(loop, False)
    loop.reset_restart_stage()


def resume_within_epoch(trainer: Trainer) -> None:
    """Have Lightning count on from the completed batches of the current epoch."""
    epoch = trainer.fit_loop.epoch_loop
    if epoch.batch_progress.current.completed > 0:
        epoch.restarting = True
        epoch.update_restart_stage()


def completed_batches(loops: dict[str, Any]) -> int:
    """Return the completed batches of the current epoch, from the loops' state."""
    return int(loops["epoch_loop.batch_progress"]["current"]["completed"])
