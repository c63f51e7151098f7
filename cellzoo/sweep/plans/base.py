"""The interface of a plan."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cellzoo.run.result import RunResult


@dataclass(frozen=True)
class TrialAddress:
    """The place of a trial in Optuna's storage, for the process that runs it.

    Attributes:
        journal: the file of the storage.
        study: the name of the study.
        trial: the number of the trial in its study, from 0.
        pruner: a key of `optuna.PRUNERS`.
    """

    journal: str
    study: str
    trial: int
    pruner: str


class Plan(Protocol):
    """The jobs of a sweep. Jobs are numbered from 1, in the order of `jobs`."""

    @property
    def total(self) -> int:
        """Return the number of jobs."""
        ...

    @property
    def prunes(self) -> bool:
        """Return whether the plan ends poor runs early."""
        ...

    def jobs(self) -> Iterator[tuple[str, ...]]:
        """Yield the overrides of each job; a search proposes them when they are taken."""
        ...

    def probes(self) -> Iterator[tuple[str, ...]]:
        """Yield the overrides of jobs that together have every value: an invalid one shows early.

        The first probe has the first value of each key.
        """
        ...

    def label(self, overrides: Sequence[str]) -> str:
        """Return the overrides of a job that distinguish it from the others, in a line."""
        ...

    def trial(self, number: int) -> TrialAddress | None:
        """Return the trial to which a job reports its validations, if its plan prunes."""
        ...

    def tell(self, number: int, result: RunResult) -> None:
        """Record the result of a finished job."""
        ...

    def best(self) -> list[str]:
        """Return the best values so far, in lines."""
        ...
