"""`cellzoo compare`: the command-line arguments of a comparison."""

import argparse
from collections.abc import Sequence

from cellzoo.compare.report import compare


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cellzoo compare` and return the exit status.

    Raises:
        CompareError: The comparison is impossible.
    """
    options = _parser().parse_args(argv)
    compare(
        options.directory,
        by=[key.strip() for key in options.by.split(",") if key.strip()],
        metric=options.metric,
        baseline=options.baseline,
        select=options.select,
        out=options.out,
        mode=options.mode,
        wandb=options.wandb,
        group=options.group,
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cellzoo compare",
        description="Compare finished runs: tables with intervals, learning curves, dot plots.",
        epilog="example: cellzoo compare runs/demo --by cell,init --baseline cell=lstm "
        "--select optimizer.lr",
    )
    parser.add_argument("directory", nargs="?", help="the directory of the runs, such as runs/demo")
    parser.add_argument(
        "--by",
        default="cell",
        metavar="KEYS",
        help="config keys to group by, such as cell,init or optimizer.lr (default: cell)",
    )
    parser.add_argument(
        "--metric",
        help="the metric to compare (default: the test metric of the monitored metric)",
    )
    parser.add_argument(
        "--mode",
        choices=("max", "min"),
        help="the better direction, for a metric whose name does not determine it",
    )
    parser.add_argument(
        "--baseline",
        metavar="GROUP",
        help="compare every group with this one, paired by seed: lstm, or cell=lstm,init=torch",
    )
    parser.add_argument(
        "--select",
        metavar="KEY",
        help="keep the best value of KEY in each group, by validation, such as optimizer.lr",
    )
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="read runs from W&B instead")
    parser.add_argument("--group", help="read only the runs of this W&B group")
    parser.add_argument("--out", help="the directory of the output (default: <directory>/compare)")
    return parser
