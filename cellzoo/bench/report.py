"""The report of a benchmark: on the terminal, as CSV, as Markdown and as a plot."""

from pathlib import Path

import pandas

from cellzoo.bench.machine import describe
from cellzoo.bench.plot import plot
from cellzoo.bench.results import MEASURED, by_shape
from cellzoo.bench.table import markdown, print_tables
from cellzoo.compare.plots import save
from cellzoo.compare.report import wide_console
from cellzoo.system.files import write_whole


def report(rows: pandas.DataFrame, out: Path) -> list[Path]:
    """Print the measurements and write bench.csv, bench.md, bench.png and bench.svg.

    Args:
        rows: the frame that `bench` returns.
        out: the output folder.

    Returns:
        The paths of the written files.
    """
    console = wide_console()
    head = _head(rows)
    console.print("\n".join(head), "", sep="\n", markup=False, highlight=False)
    print_tables(rows, console)
    text = "# cellzoo bench\n\n" + "\n".join(f"- {line}" for line in head) + "\n\n"
    text += markdown(rows)
    written = [
        write_whole(out / "bench.csv", lambda path: rows.to_csv(path, index=False)),
        write_whole(out / "bench.md", lambda path: path.write_text(text)),
    ]
    figure = plot(rows)
    if figure is None:
        console.print("no plot: torch.nn.LSTM was not measured")
    else:
        written += save(figure, out / "bench")
    console.print()
    for path in written:
        console.print(str(path), soft_wrap=True, markup=False, highlight=False)
    return written


def _head(rows: pandas.DataFrame) -> list[str]:
    """Return the lines on the machine, the dtype, the rounds and the versions."""
    measured = rows[rows["status"] == MEASURED]
    first = measured.iloc[0].to_dict()
    shapes = len(by_shape(measured))
    packages = measured.dropna(subset="version").drop_duplicates("engine")
    versions = [f"{row['engine']} {row['version']}" for _, row in packages.iterrows()]
    return [
        describe(first),
        f"{first['dtype']} on {first['device']}, {shapes} shape{'s' * (shapes != 1)}, "
        f"{first['rounds']} rounds" + "".join(f", {version}" for version in versions),
    ]
