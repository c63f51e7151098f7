"""The plan `optuna`: values that Optuna proposes from the results so far.

The studies are stored in the sweep's directory, in Optuna's own journal (`optuna-dashboard` reads
it).
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellzoo.config import schema
from cellzoo.config.checks import ConfigError
from cellzoo.config.identity import identity
from cellzoo.names.registry import nearest
from cellzoo.run.prune import Pruner
from cellzoo.run.result import RunResult, Status
from cellzoo.sweep.plans.base import TrialAddress
from cellzoo.sweep.plans.grid import GridPlan
from cellzoo.sweep.plans.search import Interval, SearchPlan, mean_of

JOURNAL = "optuna.journal"
# Samplers whose proposals depend on the trials alone: a resumed sweep proposes the same values.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tpe": ("TPESampler", {"constant_liar": True}),  # other trials are running
    "gp": ("GPSampler", {}),
    "random": ("RandomSampler", {}),
}
PRUNERS = {
    "median": "MedianPruner",
    "halving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
}


class OptunaPlan(SearchPlan):
    """A search with the values that Optuna proposes.

    Args:
        grid, intervals, settings, config_of: as for `SearchPlan`.
        directory: of the sweep.

    Raises:
        ConfigError: Optuna is not installed, or a setting is invalid.
    """

    def __init__(
        self,
        grid: GridPlan,
        intervals: Sequence[Interval],
        settings: schema.Optuna,
        config_of: Callable[[Sequence[str]], schema.RunConfig],
        directory: Path,
    ) -> None:
        super().__init__(grid, intervals, settings, config_of)
        self._optuna = _import_optuna()
        self.sampler, self.pruner = settings.sampler, settings.pruner
        if self.sampler not in SAMPLERS:
            raise ConfigError(
                f"unknown search.sampler {self.sampler!r}: {nearest(self.sampler, SAMPLERS)}"
            )
        if self.pruner is not None and self.pruner not in PRUNERS:
            raise ConfigError(
                f"unknown search.pruner {self.pruner!r}: {nearest(self.pruner, PRUNERS)}"
            )
        if self.pruner is not None and self.repeats > 1:
            raise ConfigError("search.pruner ends single runs: it requires one seed for a trial")
        self.prunes = self.pruner is not None
        self.journal = directory / JOURNAL
        self._studies: dict[int, Any] = {}

    def trial(self, number: int) -> TrialAddress | None:
        """Return the trial to which a job reports its validations, if there is a pruner."""
        if self.pruner is None:
            return None
        study, trial = self._places[number - 1]
        name = self._study(study).study_name
        return TrialAddress(str(self.journal.resolve()), name, trial, self.pruner)

    def propose(self, study: int, trial: int) -> tuple[str, ...]:
        """Return the overrides of a trial: the recorded ones, or those that Optuna proposes."""
        known = self._study(study).get_trials(deepcopy=False)
        params = known[trial].params if trial < len(known) else self._ask(study, known)
        return tuple(interval.override(params[interval.key]) for interval in self.intervals)

    def record(self, study: int, trial: int, results: Sequence[RunResult]) -> None:
        """Record a trial in Optuna's study, once."""
        states = self._optuna.trial.TrialState
        if self._study(study).get_trials(deepcopy=False)[trial].state != states.RUNNING:
            return
        if (value := mean_of(results)) is not None:
            self._study(study).tell(trial, value)
        elif any(result.status is Status.FAILED for result in results):
            self._study(study).tell(trial, state=states.FAIL)  # no information about the values
        else:
            self._study(study).tell(trial, state=states.PRUNED)  # diverged too: poor values

    def _ask(self, study: int, known: Sequence[Any]) -> dict[str, Any]:
        """Return values for the trial after the known ones, and store them.

        The sampler's seed depends on the number of the trial: a resumed sweep proposes the same
        values. One write stores the trial, completely or not at all.
        """
        kind, options = SAMPLERS[self.sampler]
        seed = int(np.random.default_rng([self.seed, len(known)]).integers(2**31))
        kinds = self._optuna.distributions
        distributions = {
            interval.key: (kinds.IntDistribution if interval.whole else kinds.FloatDistribution)(
                interval.low, interval.high, log=interval.log
            )
            for interval in self.intervals
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna marks some options as experimental
            sampler = getattr(self._optuna.samplers, kind)(seed=seed, **options)
            scratch = self._optuna.create_study(
                sampler=sampler, direction=self._study(study).direction
            )
            scratch.add_trials(known)
            params: dict[str, Any] = scratch.ask(distributions).params
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

    def _name(self, number: int) -> str:
        """Return the study's point of the grid with a hash of its config, intervals and seeds."""
        facts = [identity(self.config(number)), *map(repr, self.intervals), *self._seeds.jobs()]
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:8]
        return " ".join(filter(None, (self._points.label(self.studies[number]), digest)))


def pruner(address: TrialAddress) -> Pruner:
    """Return the pruner of a trial: it reports an epoch's metric, and decides whether to end."""
    optuna = _import_optuna()
    study = optuna.load_study(
        study_name=address.study,
        storage=_storage(Path(address.journal)),
        pruner=getattr(optuna.pruners, PRUNERS[address.pruner])(),
    )
    known = study.get_trials(deepcopy=False)[address.trial]
    if known.state.is_finished():  # the run failed and is retried
        return lambda epoch, value: False
    trial = optuna.trial.Trial(study, known._trial_id)

    def report(epoch: int, value: float) -> bool:
        if epoch not in known.intermediate_values:  # a resumed run repeats some epochs
            trial.report(value, epoch)
        return bool(trial.should_prune())

    return report


def _storage(journal: Path) -> Any:
    storages = _import_optuna().storages
    return storages.JournalStorage(storages.journal.JournalFileBackend(str(journal)))


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("search=optuna requires Optuna: pip install 'cellzoo[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
