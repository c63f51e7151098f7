"""Measure launchers: `python experiments/launchers/measure.py` writes launchers.csv here."""

import argparse
import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
JOB = ["task=clock", "cell=lstm", "hidden_size=8", "trainer.max_epochs=1", "engine=native",
       "logger=files", "name=s"]  # fmt: skip
SWEEP = [sys.executable, "-m", "cellzoo", "sweep", "--plugin", str(HERE / "clock.py")]
HYDRA = [sys.executable, str(HERE / "hydra_app.py"), "--multirun", "hydra.sweep.dir=runs/s",
         "hydra.sweep.subdir=j/${hydra.job.num}"]  # fmt: skip
WORKERS = 2
LAUNCHERS = {
    "pool, fork": [*SWEEP, "launcher.start=fork", f"launcher.jobs={WORKERS}", *JOB],
    "pool, spawn": [*SWEEP, "launcher.start=spawn", f"launcher.jobs={WORKERS}", *JOB],
    "Hydra basic": [*HYDRA, "hydra/launcher=basic", *JOB],
    "Hydra joblib": [
        *HYDRA, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={WORKERS}", *JOB,
    ],
}  # fmt: skip


def start(command: list[str], jobs: int, folder: Path) -> subprocess.Popen:
    """Start a sweep over seeds; each job writes the time of its first line to folder/clock."""
    (folder / "clock").mkdir()
    environment = {
        **os.environ,
        "CLOCK": str(folder / "clock"),
        "CELLZOO_PLUGINS": str(HERE / "clock.py"),
        "PYTHONPATH": str(HERE.parent.parent),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [*command, f"seed=range({jobs})"], cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def first_line(command: list[str], jobs: int) -> float:
    """Return the seconds from the command to the first line of the first job."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        began = time.time()
        sweep = start(command, jobs, Path(folder))
        while not (notes := [n for n in Path(folder, "clock").iterdir() if n.stat().st_size]):
            if sweep.poll() is not None:
                raise RuntimeError(f"no job began: {' '.join(command)}")
            time.sleep(0.01)
        at = float(notes[0].read_text().split()[0])
        os.killpg(sweep.pid, signal.SIGKILL)
        sweep.wait()
        time.sleep(1)  # until its processes have ended
        return at - began


def throughput(command: list[str], jobs: int, workers: int) -> dict[str, float]:
    """Return the overhead of a job, in a sweep of equal jobs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if start(command, jobs, folder).wait() != 0:
            raise RuntimeError(f"a job failed: {' '.join(command)}")
        results = list(folder.glob("runs/s/*/*/result.json"))
        notes = [note.read_text().split() for note in (folder / "clock").iterdir()]
        assert len(results) == len(notes) == jobs
        begins = {text: float(at) for at, text in notes}
        ends = [path.stat().st_mtime for path in results]
        span = max(ends) - min(float(at) for at, _ in notes)
        work = sum(ends) - sum(float(at) for at, _ in notes)
        figures = {
            "jobs a minute": 60 * jobs / span,
            "work a job, s": work / jobs,
            "idle a job, s": (workers * span - work) / jobs,
        }
        if (attempts := folder / "runs/s/attempts.csv").exists():
            with attempts.open() as file:
                started = {
                    r["run"].replace("/", "-"): float(r["started"]) for r in csv.DictReader(file)
                }
            waits = [at - started[Path(order).stem] for order, at in begins.items()]
            figures["slot to first line, s"] = statistics.median(waits)
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--many", type=int, default=1000, help="jobs of the sweep that is started only"
    )
    parser.add_argument(
        "--few", type=int, default=12, help="jobs of the sweep that runs to its end"
    )
    parser.add_argument("--only", nargs="*", default=list(LAUNCHERS))
    options = parser.parse_args()
    rows = []
    for name in options.only:
        workers = 1 if name == "Hydra basic" else WORKERS
        row = {"launcher": name, "workers": workers}
        row[f"first line of {options.many} jobs, s"] = first_line(LAUNCHERS[name], options.many)
        rows.append(row | throughput(LAUNCHERS[name], options.few, workers))
        print(rows[-1], flush=True)
    columns = list(rows[0])
    with (HERE / "launchers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(
            {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(
            *(f"{v:.2f}" if isinstance(v := row.get(c, ""), float) else str(v) for c in columns)
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
