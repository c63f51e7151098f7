"""A sweep's job, and its order: a file that a process of its own can run.

`python -m cellzoo.sweep.launchers.job ORDER` runs an order. Lightning starts the other ranks of a
run on several devices by the same command.
"""

import json
import os
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from cellzoo.config.compose import plugged
from cellzoo.config.schema import RunConfig
from cellzoo.names.plugins import code_hash, plugin_source
from cellzoo.run.directory import RunError
from cellzoo.run.train import train
from cellzoo.sweep.plans.base import TrialAddress
from cellzoo.sweep.plans.optuna import pruner
from cellzoo.system.files import write_whole
from cellzoo.system.locks import LockedError
from cellzoo.system.ranks import end_with_parent

LOCKED = 75  # exit status: another process holds the run (EX_TEMPFAIL)


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        label: the overrides that distinguish it from the other jobs.
        config: of the run.
        directory: of the run.
        sweep: the directory of the sweep.
        engine: the engine that "auto" stands for; None: unknown, the model cannot be built.
        trial: the trial to which it reports its validations, if the plan prunes.
    """

    label: str
    config: RunConfig
    directory: Path
    sweep: Path
    engine: str | None
    trial: TrialAddress | None = None

    @property
    def run(self) -> str:
        """Return the name of the run in its sweep."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def order(self) -> Path:
        """Return the file that a process reads to run the job."""
        return self.sweep / "jobs" / f"{self.run.replace('/', '-')}.json"

    @property
    def log(self) -> Path:
        """Return the file with the output of the job's processes."""
        return self.order.with_suffix(".log")

    def write_order(self) -> None:
        """Write the order."""
        order = {
            "directory": str(self.directory.resolve()),
            "group": self.sweep.name,
            "engine": self.engine,
            "trial": asdict(self.trial) if self.trial else None,
            "config": self.config.to_mapping(),
        }
        write_whole(self.order, lambda path: path.write_text(json.dumps(order, indent=1)))


def run_order(path: Path) -> int:
    """Run an order in this process; the run's directory records the result.

    Returns:
        0 if the run ended without an exception, diverged included; LOCKED if another process holds
        the run; 130 if it was interrupted; else 1.
    """
    order = json.loads(path.read_text())
    config = RunConfig.from_mapping(order["config"])
    try:
        _check_code(config)
        train(
            config,
            Path(order["directory"]),
            order["group"],
            progress=False,
            reraise=True,
            engine=order["engine"],
            prune=pruner(TrialAddress(**order["trial"])) if order["trial"] else None,
        )
    except LockedError as error:
        print(f"cellzoo: {error}", file=sys.stderr)
        return LOCKED
    except KeyboardInterrupt:
        return 130
    except Exception:  # the run's directory has one line of it
        traceback.print_exc()
        return 1
    return 0


def _check_code(config: RunConfig) -> None:
    """Refuse a plugin that was edited since the sweep was started.

    Raises:
        RunError: names the file.
    """
    for kind, registered in plugged(config).items():
        path, plugin = plugin_source(registered), config.plugins.get(kind)
        if (code_hash(path) if path else None) != (plugin.sha256 if plugin else None):
            raise RunError(f"{path} was edited since the sweep was started")


def main() -> int:
    """Run the order of the command line; exit if the parent process is gone."""
    end_with_parent()
    return run_order(Path(sys.argv[1]))


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    sys.exit(main())
