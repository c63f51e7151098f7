"""Search by Optuna: each trial's values are proposed from the results so far.

The studies lie in the sweep's directory, in Optuna's own journal (`optuna-dashboard` reads it).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellzoo.config.compose import ConfigError, identity
from cellzoo.names.registry import nearest
from cellzoo.sweep.plans.grid import Plan
from cellzoo.sweep.plans.random import Interval, RandomSearch, mean_of

JOURNAL = "optuna.journal"
SAMPLERS = {  # those that need nothing but the trials so far: a sweep goes on as it would have
    "tpe": ("TPESampler", {"constant_liar": True}),  # others' trials are running
    "gp": ("GPSampler", {}),
    "random": ("RandomSampler", {}),
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
        config_of: Callable[[Sequence[str]], Mapping[str, Any]],
        directory: Path,
    ) -> None:
        super().__init__(grid, intervals, settings, config_of)
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
        self.journal = directory / JOURNAL
        self._studies: dict[int, Any] = {}

    def trial(self, number: int) -> dict[str, Any] | None:
        """See `RandomSearch.trial`."""
        if not self.prunes:
            return None
        study, trial = self._places[number - 1]
        journal, name = str(self.journal.resolve()), self._study(study).study_name
        return {"journal": journal, "study": name, "trial": trial, "pruner": self.pruner}

    def ask(self, study: int, trial: int) -> tuple[str, ...]:
        """The overrides of a trial: those that it had before, or those that Optuna proposes."""
        known = self._study(study).get_trials(deepcopy=False)
        params = known[trial].params if trial < len(known) else self._propose(study, known)
        return tuple(each.override(params[each.key]) for each in self.intervals)

    def told(self, study: int, trial: int, results: Sequence[Mapping[str, Any]]) -> None:
        """Tell Optuna, once."""
        states = self._optuna.trial.TrialState
        if self._study(study).get_trials(deepcopy=False)[trial].state != states.RUNNING:
            return
        if (value := mean_of(results)) is not None:
            self._study(study).tell(trial, value)
        elif any(result["status"] == "failed" for result in results):
            self._study(study).tell(trial, state=states.FAIL)  # says nothing about its values
        else:
            self._study(study).tell(trial, state=states.PRUNED)  # and what diverged: poor values

    def _propose(self, study: int, known: Sequence[Any]) -> dict[str, Any]:
        """Values for the trial after those known, by its number, so that a sweep that goes on
        proposes what it would have. They are kept by one write, whole or not at all.
        """
        kind, options = SAMPLERS[self.sampler]
        seed = int(np.random.default_rng([self.seed, len(known)]).integers(2**31))
        distributions = self._distributions()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some options are called experimental
            sampler = getattr(self._optuna.samplers, kind)(seed=seed, **options)
            scratch = self._optuna.create_study(
                sampler=sampler, direction=self._study(study).direction
            )
            scratch.add_trials(known)
            params = scratch.ask(distributions).params
        self._study(study).add_trial(
            self._optuna.create_trial(
                state=self._optuna.trial.TrialState.RUNNING,
                params=params,
                distributions=distributions,
            )
        )
        return params

    def _study(self, number: int) -> Any:
        if number not in self._studies:
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            self._studies[number] = self._optuna.create_study(
                storage=_storage(self.journal),
                study_name=self._name(number),
                direction="maximize" if self.mode(number) == "max" else "minimize",
                load_if_exists=True,
            )
        return self._studies[number]

    def _distributions(self) -> dict[str, Any]:
        kinds = self._optuna.distributions
        return {
            each.key: (kinds.IntDistribution if each.whole else kinds.FloatDistribution)(
                each.low, each.high, log=each.log
            )
            for each in self.intervals
        }

    def _name(self, number: int) -> str:
        """Where it lies in the grid, and a hash: with other values or intervals it is another."""
        facts = [identity(self.config(number)), *map(repr, self.intervals), *self._seeds.jobs()]
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:8]
        return " ".join(filter(None, (self._points.said(self.studies[number]), digest)))


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
    if known.state.is_finished():  # the run failed, and is tried again
        return lambda epoch, value: False
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
