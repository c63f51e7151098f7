"""`cellzoo sweep`: from a command line to many runs."""

import argparse
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from cellzoo.config import schema
from cellzoo.config.checks import ConfigError, check_overrides, explain
from cellzoo.config.compose import Composer, composed, composer, resolved, store_choices
from cellzoo.config.identity import run_path
from cellzoo.run.budget import apply_budget
from cellzoo.run.build import check
from cellzoo.run.command import hydra_app, split
from cellzoo.run.directory import read_result, status
from cellzoo.run.result import ENDED, RunResult, Status
from cellzoo.sweep.launchers.base import Launcher, launcher_class
from cellzoo.sweep.launchers.job import Job
from cellzoo.sweep.plans.base import Plan
from cellzoo.sweep.plans.grid import GridPlan
from cellzoo.sweep.plans.optuna import OptunaPlan
from cellzoo.sweep.plans.random import RandomPlan
from cellzoo.sweep.plans.search import Interval
from cellzoo.sweep.progress import Progress
from cellzoo.sweep.record import Record, open_record
from cellzoo.sweep.settle import EngineSettler
from cellzoo.sweep.status import show
from cellzoo.system.signals import handling

console = Console(highlight=False)


def sweep_command(arguments: list[str], debug: bool = False) -> int:
    """Run `cellzoo sweep`, and return 0 if all jobs are done, else 1.

    A job that diverges or fails is recorded and does not stop the others. A finished run is not
    run again. With --status, print how a sweep stands instead.
    """
    own, arguments = _flags(arguments)
    if own.status is not None:
        if arguments:
            first = arguments[0]
            raise ConfigError(f"--status takes a sweep's directory and nothing else, not {first!r}")
        show(Path(own.status))
        return 0
    if own.retry not in (None, "failed"):
        raise ConfigError(f"--retry takes: failed, not {own.retry!r}")
    overrides, flags = split(arguments)
    store_choices()
    check_overrides(overrides, sweeping=True)
    folder = own.config_dir and Path(own.config_dir).resolve()
    extra = [f"hydra.searchpath=['file://{folder}']"] if folder else []
    with composer(extra) as compose:
        if not flags:
            return Sweep(compose, overrides, own.retry is not None).run()
        axes, _ = compose.read(overrides)
    hydra_app(lambda config: None, [*next(GridPlan(axes).jobs()), *flags])  # --help and the like
    return 0


class Sweep:
    """One `cellzoo sweep`.

    Args:
        composer: composes the configs.
        overrides: of the command line.
        retry: whether failed runs are run again.

    Raises:
        ConfigError: an override is invalid.
    """

    def __init__(self, composer: Composer, overrides: list[str], retry: bool) -> None:
        self.composer, self.overrides, self.retry = composer, overrides, retry
        axes, intervals = composer.read(overrides)
        grid = GridPlan(axes)
        _refuse_sweep_wide(grid, intervals)
        first = self._composed(next(grid.jobs()))
        self.settings = composed(first)
        self.directory = Path("runs") / str(self.settings.name)
        self.plan = self._plan(grid, intervals, self.settings.search)
        self.first = self._config(next(self.plan.probes()))
        self._jobs_of: dict[Path, list[int]] = {}  # several, if a search draws a run twice

    def _plan(self, grid: GridPlan, intervals: list[Override], search: schema.Search) -> Plan:
        """Return the plan of `search` for a grid and intervals.

        Raises:
            ConfigError: a search without an interval, or an interval without a search.
        """
        if not isinstance(search, schema.Random):
            if intervals:
                line = intervals[0].input_line
                raise ConfigError(f"{line}: a grid has no intervals: say search=random, or optuna")
            return grid
        if not intervals:
            raise ConfigError(
                f"search={search.name} requires an interval to search: "
                "'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
            )
        searched = [Interval.of(interval) for interval in intervals]
        if isinstance(search, schema.Optuna):
            return OptunaPlan(grid, searched, search, self._config, self.directory)
        return RandomPlan(grid, searched, search, self._config)

    def run(self) -> int:
        """Run the jobs that are not finished. Return 0 if all jobs are done, else 1."""
        settings = self.settings.launcher
        launcher = launcher_class(settings.name)(settings, self.first.trainer)
        # The signals that end a session or a batch job end a sweep as Ctrl-C does.
        signals = (signal.SIGTERM, signal.SIGHUP)
        with handling(signals, signal.default_int_handler), closing(launcher):
            probes = [self._config(overrides) for overrides in self.plan.probes()]
            _check_any(probes)
            with open_record(self.directory) as record:
                launcher.start(record.keep_plugins())
                probes = [record.with_kept_plugins(config) for config in probes]
                return self._launch(launcher, record, probes)

    def _launch(self, launcher: Launcher, record: Record, probes: list[schema.RunConfig]) -> int:
        with Progress(console, self.plan.total, launcher.slots) as progress:
            for line in record.begin(self.overrides, self.plan.total):
                progress.note(line)
            settler = EngineSettler(progress.note)
            for config in probes:  # compiles every cell that was never compiled
                settler.engine(config, self._directory(config))
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

    def _jobs(self, record: Record, settler: EngineSettler, progress: Progress) -> Iterator[Job]:
        """Yield the jobs that are not finished; each is composed when it is taken."""
        seen: dict[Path, int] = {}
        for number, overrides in enumerate(self.plan.jobs(), 1):
            label = self.plan.label(overrides)
            config = record.with_kept_plugins(self._config(overrides))
            directory = self._directory(config)
            if line := record.plan(number, str(directory.relative_to(self.directory)), label):
                progress.note(line)
            self._jobs_of.setdefault(directory, []).append(number)
            result = read_result(directory) if status(directory) in self._finished else None
            if directory in seen:
                progress.same(label, seen[directory])
                if result is not None:
                    self.plan.tell(number, result)
                continue
            seen[directory] = number
            if result is not None:
                progress.ended_before(result)
                self._tell(directory, result)
                continue
            progress.started()
            engine = settler.engine(config, directory)
            trial = self.plan.trial(number)
            yield Job(label, config, directory, self.directory, engine, trial)

    @property
    def _finished(self) -> set[Status]:
        """Return the statuses of runs that are not run again."""
        failed = () if self.retry else (Status.FAILED,)
        return {*ENDED, *failed, *((Status.PRUNED,) if self.plan.prunes else ())}

    def _tell(self, directory: Path, result: RunResult) -> None:
        """Pass the result of a run to the plan."""
        if result.status in (*ENDED, Status.FAILED, Status.PRUNED):
            for number in self._jobs_of[directory]:
                self.plan.tell(number, result)

    def _config(self, overrides: Sequence[str]) -> schema.RunConfig:
        return apply_budget(resolved(self._composed(overrides)))

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        try:
            return self.composer.compose(overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error, self.composer.keys(overrides))) from error

    def _directory(self, config: schema.RunConfig) -> Path:
        return self.directory / run_path(config)


def _refuse_sweep_wide(grid: GridPlan, intervals: Sequence[Override]) -> None:
    """Refuse several values of a setting of the whole sweep, and Hydra's own settings."""
    swept = {axis[0].split("=")[0]: len(axis) > 1 for axis in grid.axes}
    swept |= {interval.get_key_element(): True for interval in intervals}
    for key, several in swept.items():
        group = key.lstrip("+~").split(".")[0].split("/")[0]
        if group == "hydra":
            raise ConfigError(f"{key}: a sweep lies in runs/<name> and has launchers of its own")
        if several and group in ("launcher", "search", "name"):
            raise ConfigError(f"{key} is one for the whole sweep, not several")


def _check_any(configs: Sequence[schema.RunConfig]) -> None:
    """Refuse a sweep whose jobs are all invalid; some invalid jobs fail, and the others run.

    Raises:
        Exception, SystemExit: the first one of `build.check`.
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


def _flags(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return cellzoo's own flags, and the other arguments.

    Raises:
        ConfigError: a flag without its value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--retry", "--config-dir", "--status"):
        parser.add_argument(flag)
    try:
        return parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from None
