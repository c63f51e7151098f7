"""`cellzoo sweep`: from a command line to many runs, and how they stand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from cellzoo.config.compose import (
    ConfigError,
    check_overrides,
    explain,
    resolved,
    run_path,
    store_choices,
)
from cellzoo.run.budget import apply_budget
from cellzoo.run.command import hydra_app, split
from cellzoo.run.directory import ENDED, read_result, status
from cellzoo.run.train import check
from cellzoo.sweep.launchers.base import Launcher, launcher_class
from cellzoo.sweep.launchers.job import Job
from cellzoo.sweep.plans.grid import Composer, Plan, composer
from cellzoo.sweep.plans.optuna import OptunaSearch
from cellzoo.sweep.plans.random import Interval, RandomSearch
from cellzoo.sweep.progress import Progress
from cellzoo.sweep.record import Record, open_record
from cellzoo.sweep.settle import Settler
from cellzoo.sweep.status import show as show_standing

console = Console(highlight=False)


def many(arguments: list[str], debug: bool) -> int:
    """`cellzoo sweep`: every combination of the values given by commas.

    A job that diverges or fails is recorded as such and does not stop the others; one that is
    done already is not run again. Returns 0 if all are done, else 1.
    """
    retry, arguments = _take(arguments, "--retry")
    if retry not in (None, "failed"):
        raise ConfigError(f"--retry takes: failed, not {retry!r}")
    folder, arguments = _take(arguments, "--config-dir")
    overrides, flags = split(arguments)
    store_choices()
    check_overrides(overrides, sweeping=True)
    extra = [f"hydra.searchpath=['file://{Path(folder).resolve()}']"] if folder else []
    with composer(extra) as compose:
        if not flags:
            return Sweep(compose, overrides, retry is not None).run()
        first = next(compose.plan(overrides)[0].jobs())
    hydra_app(lambda config: None, [*first, *flags])  # help, and the like
    return 0


class Sweep:
    """One `cellzoo sweep`.

    Args:
        composer: makes its configs.
        overrides: of the command line.
        retry: whether runs that failed are run again.

    Raises:
        ConfigError: an override that makes no sense, or a value of one.
    """

    def __init__(self, composer: Composer, overrides: list[str], retry: bool) -> None:
        self.composer, self.overrides, self.retry = composer, overrides, retry
        grid, intervals = composer.plan(overrides)
        _refuse_sweep_wide(grid, intervals)
        composed: Any = OmegaConf.to_container(self._composed(next(grid.jobs())))
        self.settings = composed["launcher"]
        self.directory = Path("runs") / composed["name"]
        self.plan = self._plan(grid, intervals, composed["search"])
        self.first = self._config(next(self.plan.probes()))
        self._asked: dict[Path, list[int]] = {}  # jobs by run; a search may draw one twice

    def _plan(
        self, grid: Plan, intervals: Sequence[Override], settings: Mapping[str, Any]
    ) -> Plan | RandomSearch:
        """The plan that `search` makes of a grid and intervals.

        Raises:
            ConfigError: a search without an interval, or an interval without a search.
        """
        name = settings["name"]
        if name == "grid":
            if intervals:
                line = intervals[0].input_line
                raise ConfigError(f"{line}: a grid has no intervals: say search=random, or optuna")
            return grid
        if not intervals:
            raise ConfigError(
                f"search={name} wants an interval to search: "
                "'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
            )
        found = [Interval.of(each) for each in intervals]
        if name == "random":
            return RandomSearch(grid, found, settings, self._config)
        return OptunaSearch(grid, found, settings, self._config, self.directory)

    def run(self) -> int:
        """Run what is not done. Returns 0 if all jobs are done, else 1."""
        launch = launcher_class(self.settings["name"])
        with _interrupted_by_signals(), closing(launch(self.settings, self.first["trainer"])) as it:
            probes = [self._config(each) for each in self.plan.probes()]
            _check_one(probes)
            with open_record(self.directory) as record:
                it.start(record.keep_plugins())
                probes = [record.with_kept_plugins(each) for each in probes]
                return self._launch(it, record, probes)

    def _launch(self, launcher: Launcher, record: Record, probes: list[dict[str, Any]]) -> int:
        with Progress(console, self.plan.total, launcher.slots) as progress:
            for line in record.begin(self.overrides, self.plan.total):
                progress.note(line)
            settler = Settler(progress.note)
            for each in probes:
                settler.engine(each, self._directory(each))  # compiles every cell that never was
            description = launcher.describe()
            progress.note(description)
            record.add(slots=launcher.slots, launcher=description)
            for outcome in launcher.run(self._jobs(record, settler, progress)):
                progress.ended(outcome)
                self._tell(outcome.job.directory, outcome.result)
        progress.tally()
        for line in self.plan.best():
            console.print(escape(line), soft_wrap=True)
        console.print(f"compare them: cellzoo compare {escape(str(self.directory))}")
        return 0 if progress.all_done else 1

    def _jobs(self, record: Record, settler: Settler, progress: Progress) -> Iterator[Job]:
        """The jobs that there is something to do for, each composed when it is asked for."""
        seen: dict[Path, int] = {}
        for number, overrides in enumerate(self.plan.jobs(), 1):
            said = self.plan.said(overrides)
            config = record.with_kept_plugins(self._config(overrides))
            directory = self._directory(config)
            run = str(directory.relative_to(self.directory))
            if line := record.plan(number, run, said):
                progress.note(line)
            self._asked.setdefault(directory, []).append(number)
            if directory in seen:
                progress.same(said, seen[directory])
                if status(directory) in self._ended:
                    self.plan.tell(number, read_result(directory) or {})
                continue
            seen[directory] = number
            if status(directory) in self._ended:
                result = read_result(directory) or {}
                progress.ended_before(result)
                self._tell(directory, result)
                continue
            progress.started()
            engine = settler.engine(config, directory)
            trial = self.plan.trial(number)
            yield Job(number, said, config, directory, self.directory, engine, trial)

    @property
    def _ended(self) -> set[str]:
        """The statuses of runs that there is nothing to do for."""
        again = () if self.retry else ("failed",)
        return {*ENDED, *again, *(("pruned",) if self.plan.prunes else ())}

    def _tell(self, directory: Path, result: Mapping[str, Any]) -> None:
        """Let the plan know how a run ended."""
        if result["status"] in (*ENDED, "failed", "pruned"):
            for number in self._asked[directory]:
                self.plan.tell(number, result)

    def _config(self, overrides: Sequence[str]) -> dict[str, Any]:
        return apply_budget(resolved(self._composed(overrides)))

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        try:
            return self.composer.compose(overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error, self.composer.keys(overrides))) from error

    def _directory(self, config: Mapping[str, Any]) -> Path:
        return self.directory / run_path(config)


def _refuse_sweep_wide(plan: Plan, intervals: Sequence[Override]) -> None:
    """Refuse several values, or Hydra's own, for what is one for the whole sweep."""
    several = {axis[0].split("=")[0]: len(axis) > 1 for axis in plan.axes}
    several |= {each.get_key_element(): True for each in intervals}
    for key, many in several.items():
        group = key.lstrip("+~").split(".")[0].split("/")[0]
        if group == "hydra":
            raise ConfigError(f"{key}: a sweep lies in runs/<name> and has launchers of its own")
        if many and group in ("launcher", "search", "name"):
            raise ConfigError(f"{key} is one for the whole sweep, not several")


def _check_one(configs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a sweep whose jobs are all wrong; where some are, they fail and the others run.

    Raises:
        what `train.check` does.
    """
    first: BaseException | None = None
    for config in configs:
        try:
            check(config)
        except (Exception, SystemExit) as error:  # a cell may call sys.exit
            first = first or error
        else:
            return
    if first is not None:
        raise first


def _take(arguments: list[str], flag: str) -> tuple[str | None, list[str]]:
    """A flag's value, if it is given, and the other arguments.

    Raises:
        ConfigError: a flag without its value.
    """
    rest = list(arguments)
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return rest.pop(place).split("=", 1)[1], rest
        if argument == flag:
            if place + 1 == len(arguments):
                raise ConfigError(f"{flag} wants a value")
            value = rest.pop(place + 1)
            rest.pop(place)
            return value, rest
    return None, rest


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Have what ends a session or a batch job end a sweep as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(each, signal.default_int_handler) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def show(arguments: list[str]) -> int:
    """`cellzoo sweep --status runs/NAME`."""
    directory, rest = _take(arguments, "--status")
    if rest:
        raise ConfigError(f"--status takes a sweep's directory and nothing else, not {rest[0]!r}")
    show_standing(Path(str(directory)))
    return 0
