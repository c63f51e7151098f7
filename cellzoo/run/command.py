"""`cellzoo train`: Hydra composes the config, `train.train` runs it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from cellzoo.config.checks import ConfigError, check_overrides, conf_folder, explain
from cellzoo.config.compose import composer, resolved, store_choices
from cellzoo.config.identity import identity
from cellzoo.config.schema import RunConfig
from cellzoo.names.registry import nearest, with_present_names
from cellzoo.run.budget import apply_budget
from cellzoo.run.build import check, settle_engine
from cellzoo.run.directory import RunError, read_config, read_result
from cellzoo.run.result import RunResult, Status
from cellzoo.run.train import train
from cellzoo.system.ranks import is_main_process

console = Console(highlight=False)

# Hydra's own flags, and whether a value follows.
FLAGS = {
    "--help": False, "-h": False, "--hydra-help": False, "--resolve": False, "--version": False,
    "--cfg": True, "-c": True, "--info": True, "-i": True, "--package": True, "-p": True,
    "--config-dir": True, "-cd": True,
}  # fmt: skip


def train_command(arguments: list[str], debug: bool) -> int:
    """Run `cellzoo train`, and return 0 if the run is done, 1 if it diverged or failed."""
    results: list[RunResult] = []

    def job(composed: DictConfig) -> None:
        config = apply_budget(resolved(composed))
        directory = Path(HydraConfig.get().runtime.output_dir)
        if is_main_process():
            check(config)
            _refuse_finished(directory, config)
            _print_config(config, directory)
        engine = _settled(config, directory)
        result = train(config, directory, reraise=debug, engine=engine)
        results.append(result)
        if is_main_process():
            _print_summary(result, directory)

    hydra_app(job, arguments)
    return 0 if all(result.status is Status.DONE for result in results) else 1


def _settled(config: RunConfig, directory: Path) -> str | None:
    """Return the engine that "auto" stands for; compiling its cell is not part of the run."""
    try:
        with console.status(f"compiling {escape(config.cell.name)} if it never was"):
            engine, reasons = settle_engine(config, directory)
    except Exception:  # a config that cannot be built: the run raises and records it
        return None
    if is_main_process():
        for reason in reasons:
            console.print(f"[dim]{escape(f'engine {engine}: {reason}')}[/dim]", soft_wrap=True)
    return engine


def hydra_app(job: Callable[[DictConfig], None], arguments: list[str]) -> None:
    """Let Hydra read the command line and call the job with each composed config."""
    overrides, flags = split(arguments)
    store_choices()
    check_overrides(overrides, sweeping=False)
    command_line = sys.argv

    errors: list[Exception] = []
    unused: list[Path] = []

    def call(config: DictConfig) -> None:
        # Lightning starts the other ranks by this command line: it must be the user's.
        sys.argv = command_line
        if not errors:
            try:
                job(config)
            except Exception as error:  # Hydra would print it in its own form
                errors.append(error)
        if errors:
            unused.append(Path(HydraConfig.get().runtime.output_dir))

    decorated = hydra.main(
        version_base="1.3", config_path=str(conf_folder().resolve()), config_name="config"
    )(call)
    with _errors_pass_through():
        sys.argv = [command_line[0], *overrides, *flags]
        try:
            decorated()
        except (HydraException, OmegaConfBaseException) as error:
            names = [text.split("=", 1)[1] for text in overrides if text.startswith("name=")]
            unused += [Path("runs") / name for name in names]
            with composer() as compose:
                axes, _ = compose.read(overrides)
                keys = compose.keys([values[0] for values in axes])
            raise ConfigError(explain(error, keys)) from error
        finally:
            sys.argv = command_line
            for directory in unused:
                _remove_empty(directory)
    if errors:
        raise errors[0]


def _remove_empty(directory: Path) -> None:
    """Remove the folders that Hydra made for a run that never began."""
    for folder in (directory, directory.parent):
        if folder.name == "runs" or not folder.is_dir() or any(folder.iterdir()):
            break
        folder.rmdir()


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the overrides, and the flags with their values: Hydra requires them apart.

    Raises:
        ConfigError: Hydra has no such flag.
    """
    overrides: list[str] = []
    flags: list[str] = []
    value_follows = False
    for argument in arguments:
        if value_follows or argument.startswith("-"):
            name = argument.split("=")[0]
            if not value_follows and name not in FLAGS:
                raise ConfigError(f"unknown flag {name!r}: {nearest(name, FLAGS)}")
            value_follows = not value_follows and FLAGS[name] and "=" not in argument
            flags.append(argument)
        else:
            overrides.append(with_present_names(argument))
    return overrides, flags


@contextmanager
def _errors_pass_through() -> Iterator[None]:
    """Have Hydra raise its exceptions, for cellzoo to print them in one line."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _refuse_finished(directory: Path, config: RunConfig) -> None:
    """Raise RunError if the directory holds a finished run."""
    result = read_result(directory)
    if result is not None and result.status is Status.DONE:
        old = read_config(directory)
        same = identity(old) == identity(config) and old.seed == config.seed
        run = "this run, done" if same else "another run, done"
        raise RunError(f"{directory} holds {run}: choose another name=, or remove it")


def _print_config(config: RunConfig, directory: Path) -> None:
    text = OmegaConf.to_yaml(OmegaConf.create(config.to_mapping()))
    console.print(Syntax(text.rstrip(), "yaml", background_color="default", word_wrap=True))
    console.print(f"[dim]{escape(str(_relative(directory)))}[/dim]", soft_wrap=True)


def _print_summary(result: RunResult, directory: Path) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("status", escape(result.outcome))
    for name, value in sorted(result.metrics.items()):
        table.add_row(name, number(value))
    if result.parameters is not None:
        table.add_row("parameters", f"{result.parameters:,}")
    if result.steps_per_second is not None:
        table.add_row("steps", f"{result.steps:,} ({result.steps_per_second:g} a second)")
    table.add_row("engine", escape(str(result.engine_choice)))
    table.add_row("seconds", f"{result.seconds:.1f}")
    table.add_row("run", escape(str(_relative(directory))))
    console.print(table, soft_wrap=True)


def summary(result: RunResult) -> str:
    """Return the result of a run in a line: its validation metric, or its status and reason."""
    if result.status is not Status.DONE:
        return f"{result.status}: {result.reason}"
    return f"{result.monitor} {number(result.monitored)} ({result.seconds:.1f} s)"


def number(value: float | None) -> str:
    """Return a metric's value to four digits."""
    return "not finite" if value is None else f"{value:.4g}"


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
