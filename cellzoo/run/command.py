"""`cellzoo train`: Hydra composes, `train.train` runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from cellzoo.config.compose import (
    ConfigError,
    check_overrides,
    conf_folder,
    explain,
    identity,
    resolved,
    store_choices,
)
from cellzoo.names.registry import nearest, with_present_names
from cellzoo.run.budget import apply_budget
from cellzoo.run.directory import RunError, read_config, read_result
from cellzoo.run.loggers import is_main_process
from cellzoo.run.train import check, settle_engine, train
from cellzoo.sweep.plans.grid import composer

console = Console(highlight=False)

# Hydra's own flags, and whether a value follows.
FLAGS = {
    "--help": False, "-h": False, "--hydra-help": False, "--resolve": False, "--version": False,
    "--cfg": True, "-c": True, "--info": True, "-i": True, "--package": True, "-p": True,
    "--config-dir": True, "-cd": True,
}  # fmt: skip


def one(arguments: list[str], debug: bool) -> int:
    """`cellzoo train`: one run. Returns 0 if it is done, 1 if it diverged or failed."""
    results: list[Mapping[str, Any]] = []

    def job(config: DictConfig) -> None:
        settings = apply_budget(resolved(config))
        directory = Path(HydraConfig.get().runtime.output_dir)
        if is_main_process():
            check(settings)
            _refuse_finished(directory, settings)
            _print_config(settings, directory)
        engine = _settled(settings, directory)
        result = train(settings, directory, reraise=debug, engine=engine)
        results.append(result)
        if is_main_process():
            _print_summary(result, directory)

    hydra_app(job, arguments)
    return 0 if all(result["status"] == "done" for result in results) else 1


def _settled(settings: Mapping[str, Any], directory: Path) -> str | None:
    """What engine=auto is for this run; compiling its cell, where need be, is no part of it."""
    cell = settings["cell"]["name"]
    try:
        with console.status(f"compiling {escape(cell)} where it never was"):
            engine, why = settle_engine(settings, directory)
    except Exception:  # a config that cannot be built: the run says so, and records it
        return None
    if is_main_process():
        for reason in why:
            console.print(f"[dim]{escape(f'engine {engine}: {reason}')}[/dim]", soft_wrap=True)
    return engine


def hydra_app(job: Callable[[DictConfig], None], arguments: list[str]) -> None:
    """Let Hydra read the command line and call the job with each config that it composes."""
    overrides, said = split(arguments)
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
            except Exception as error:  # Hydra would print it in its own way, and go on
                errors.append(error)
        if errors:
            unused.append(Path(HydraConfig.get().runtime.output_dir))

    decorated = hydra.main(
        version_base="1.3", config_path=str(conf_folder().resolve()), config_name="config"
    )(call)
    with _errors_pass_through():
        sys.argv = [command_line[0], *overrides, *said]
        try:
            decorated()
        except (HydraException, OmegaConfBaseException) as error:
            names = [each.split("=", 1)[1] for each in overrides if each.startswith("name=")]
            unused += [Path("runs") / name for name in names]
            with composer() as compose:
                first = next(compose.plan(overrides)[0].jobs())
                raise ConfigError(explain(error, compose.keys(first))) from error
        finally:
            sys.argv = command_line
            for directory in unused:
                _remove_empty(directory)
    if errors:
        raise errors[0]


def _remove_empty(directory: Path) -> None:
    """Remove the folders that Hydra made for a run that never began."""
    for folder in (directory, *directory.parents[:2]):
        if folder.name == "runs" or not folder.is_dir():
            break
        if [path.name for path in folder.iterdir()] == ["multirun.yaml"]:
            (folder / "multirun.yaml").unlink()
        if any(folder.iterdir()):
            break
        folder.rmdir()


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Overrides, and flags with their values; Hydra wants them apart.

    Raises:
        ConfigError: a flag that Hydra does not have.
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
    """Have Hydra raise what it catches: this program says errors in its own way."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _refuse_finished(directory: Path, settings: Mapping[str, Any]) -> None:
    """Keep a finished run: another one needs a name of its own."""
    result = read_result(directory)
    if result is not None and result["status"] == "done":
        old = read_config(directory)
        same = identity(old) == identity(settings) and old["seed"] == settings["seed"]
        what = "this run, done" if same else "another run, done"
        raise RunError(f"{directory} holds {what}: choose another name=, or remove it")


def _print_config(settings: Mapping[str, Any], directory: Path) -> None:
    text = OmegaConf.to_yaml(OmegaConf.create(dict(settings)))
    console.print(Syntax(text.rstrip(), "yaml", background_color="default", word_wrap=True))
    console.print(f"[dim]{escape(str(_relative(directory)))}[/dim]", soft_wrap=True)


def _print_summary(result: Mapping[str, Any], directory: Path) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("status", escape(said_of(result)) if result["status"] != "done" else "done")
    for name, value in sorted(result["metrics"].items()):
        table.add_row(name, number(value))
    if result["parameters"] is not None:
        table.add_row("parameters", f"{result['parameters']:,}")
    if result["steps_per_second"] is not None:
        table.add_row("steps", f"{result['steps']:,} ({result['steps_per_second']:g} a second)")
    table.add_row("engine", escape(str(result["engine"])))
    table.add_row("seconds", f"{result['seconds']:.1f}")
    table.add_row("run", escape(str(_relative(directory))))
    console.print(table, soft_wrap=True)


def said_of(result: Mapping[str, Any]) -> str:
    """How a run ended, in a line: its validation metric, or what went wrong."""
    if result["status"] != "done":
        return f"{result['status']}: {result['reason']}"
    metric = result["monitor"]
    return f"{metric} {number(result['metrics'].get(metric))} ({result['seconds']:.1f} s)"


def number(value: float | None) -> str:
    """A metric's value, to four digits."""
    return "not finite" if value is None else f"{value:.4g}"


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
