"""Search by Optuna: each trial's values are proposed from the results so far.

The studies lie in the sweep's directory, in Optuna's own journal (`optuna-dashboard` reads it).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellzoo.config import ConfigError
from cellzoo.registry import nearest
from cellzoo.sweep.plan import Plan
from cellzoo.sweep.search import Interval, RandomSearch

JOURNAL = "optuna.journal"
SAMPLERS = {
    "tpe": ("TPESampler", {"constant_liar": True}),  # others' trials are running
    "random": ("RandomSampler", {}),
    "qmc": ("QMCSampler", {"scramble": True}),
    "cmaes": ("CmaEsSampler", {}),
    "gp": ("GPSampler", {}),
}
PRUNERS = {
    "median": "MedianPruner",
    "halving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
}


class OptunaSearch(RandomSearch):
    """As `RandomSearch`, with values that Optuna proposes.

    Args:
        directory: the sweep's.

    Raises:
        ConfigError: Optuna is not installed, or settings that make no sense.
    """

    def __init__(
        self,
        grid: Plan,
        intervals: Sequence[Interval],
        settings: Mapping[str, Any],
        mode: str,
        directory: Path,
    ) -> None:
        super().__init__(grid, intervals, settings, mode)
        self._optuna = _optuna()
        self.sampler, self.pruner = settings["sampler"], settings["pruner"]
        if self.sampler not in SAMPLERS:
            raise ConfigError(
                f"unknown search.sampler {self.sampler!r}: {nearest(self.sampler, SAMPLERS)}"
            )
        if self.pruner is not None and self.pruner not in PRUNERS:
            raise ConfigError(
                f"unknown search.pruner {self.pruner!r}: {nearest(self.pruner, PRUNERS)}"
            )
        if self.pruner is not None and self.repeats > 1:
            raise ConfigError("search.pruner ends single runs: it wants one seed for a trial")
        self.prunes = self.pruner is not None
        self.direction = "maximize" if mode == "max" else "minimize"
        self.journal = directory / JOURNAL
        self._studies: dict[int, Any] = {}

    def trial(self, overrides: tuple[str, ...]) -> dict[str, Any] | None:
        """See `RandomSearch.trial`."""
        if not self.prunes:
            return None
        study, trial = self._trial_of[overrides]
        journal, name = str(self.journal.resolve()), self._name(study)
        return {"journal": journal, "study": name, "trial": trial, "pruner": self.pruner}

    def ask(self, study: int, trial: int) -> tuple[str, ...]:
        """The overrides of a trial: those that it had before, or those that Optuna proposes."""
        known = self._study(study).get_trials(deepcopy=False)
        if trial < len(known):
            values = known[trial].params
        else:
            # By the trial's number, so that a sweep that goes on proposes what it would have.
            kind, options = SAMPLERS[self.sampler]
            seed = int(np.random.default_rng([self.seed, trial]).integers(2**31))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some options are called experimental
                sampler = getattr(self._optuna.samplers, kind)(seed=seed, **options)
                self._study(study).sampler = sampler
                values = self._study(study).ask(self._distributions()).params
        return tuple(each.override(values[each.key]) for each in self.intervals)

    def told(self, study: int, trial: int, value: float | None, result: Mapping[str, Any]) -> None:
        """Tell Optuna, once."""
        states = self._optuna.trial.TrialState
        if self._study(study).get_trials(deepcopy=False)[trial].state != states.RUNNING:
            return
        if value is not None:
            self._study(study).tell(trial, value)
        else:
            pruned = result["status"] == "pruned"
            self._study(study).tell(trial, state=states.PRUNED if pruned else states.FAIL)

    def _study(self, number: int) -> Any:
        if number not in self._studies:
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            self._studies[number] = self._optuna.create_study(
                storage=_storage(self.journal),
                study_name=self._name(number),
                direction=self.direction,
                load_if_exists=True,
            )
            self._check_same(number)
        return self._studies[number]

    def _check_same(self, number: int) -> None:
        """Refuse to go on with a study of other intervals."""
        now = self._distributions()
        for trial in self._studies[number].get_trials(deepcopy=False):
            if trial.distributions != now:
                raise ConfigError(
                    f"{self.journal} holds a search of other intervals: choose another name="
                )

    def _distributions(self) -> dict[str, Any]:
        kinds = self._optuna.distributions
        return {
            each.key: (kinds.IntDistribution if each.whole else kinds.FloatDistribution)(
                each.low, each.high, log=each.log
            )
            for each in self.intervals
        }

    def _name(self, number: int) -> str:
        return self._study_axes.said(self.studies[number]) or "all"


def pruner(trial: Mapping[str, Any]) -> Callable[[int, float], bool]:
    """For a job's process: takes an epoch's monitored metric, and says whether to end the run.

    Args:
        trial: what `OptunaSearch.trial` gave.
    """
    optuna = _optuna()
    study = optuna.load_study(
        study_name=trial["study"],
        storage=_storage(Path(trial["journal"])),
        pruner=getattr(optuna.pruners, PRUNERS[trial["pruner"]])(),
    )
    known = study.get_trials(deepcopy=False)[trial["trial"]]
    mine = optuna.trial.Trial(study, known._trial_id)

    def report(epoch: int, value: float) -> bool:
        if epoch not in known.intermediate_values:  # a run that goes on says some again
            mine.report(value, epoch)
        return mine.should_prune()

    return report


def _storage(journal: Path) -> Any:
    storages = _optuna().storages
    return storages.JournalStorage(storages.journal.JournalFileBackend(str(journal)))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("search=optuna wants Optuna: pip install 'cellzoo[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
