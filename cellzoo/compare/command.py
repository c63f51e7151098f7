"""`cellzoo compare`: the arguments of a comparison."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cellzoo.compare.report import compare


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cellzoo compare` with `argv`; what is wrong is raised as `CompareError`."""
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
        description="Compare finished runs: tables with intervals, learning curves, dots.",
        epilog="example: cellzoo compare runs/demo --by cell,init --baseline cell=lstm "
        "--select optimizer.lr",
    )
    parser.add_argument("directory", nargs="?", help="where the runs are, as runs/demo")
    parser.add_argument(
        "--by",
        default="cell",
        metavar="KEYS",
        help="config keys to group by, as cell,init or optimizer.lr (default: cell)",
    )
    parser.add_argument(
        "--metric", help="what to compare (default: the test metric of the monitored one)"
    )
    parser.add_argument(
        "--mode", choices=("max", "min"), help="which is better, where the metric's name is silent"
    )
    parser.add_argument(
        "--baseline",
        metavar="GROUP",
        help="compare all with this group, paired by seed: lstm, or cell=lstm,init=torch",
    )
    parser.add_argument(
        "--select",
        metavar="KEY",
        help="let each group keep its best value of KEY by validation, as optimizer.lr",
    )
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="read runs from W&B instead")
    parser.add_argument("--group", help="only the runs of this W&B group")
    parser.add_argument("--out", help="where files go (default: <directory>/compare)")
    return parser
