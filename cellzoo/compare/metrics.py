"""The split, direction and unit of a metric, by its name."""

from cellzoo.compare.errors import CompareError

HIGHER = ("accuracy", "f1", "score", "per_second", "auc")
LOWER = ("loss", "error", "perplexity", "bits", "mse", "mae", "nll", "seconds", "parameters")
UNITS = {
    "accuracy": "fraction correct",
    "bits_per_character": "bits",
    "seconds": "s",
    "steps_per_second": "steps/s",
    "parameters": "count",
}
SPLITS = {"val": "validation", "test": "test", "train": "training"}


def default_metric(monitor: str) -> str:
    """Return the test metric of a monitored validation metric."""
    split, slash, name = monitor.partition("/")
    if split != "val" or not slash:
        raise CompareError(f"the runs monitor {monitor!r} instead of val/…; give --metric NAME")
    return f"test/{name}"


def direction(
    metric: str, monitor: str | None, mode: str | None, default: str | None = None
) -> str:
    """Return `max` or `min`, the better direction: as monitored, otherwise by the name.

    Raises:
        CompareError: Neither determines the direction, and there is no default.
    """
    name = metric.partition("/")[2] or metric
    if monitor is not None and name == monitor.partition("/")[2]:
        return str(mode)
    if any(word in name for word in HIGHER):
        return "max"
    if any(word in name for word in LOWER):
        return "min"
    if default is not None:
        return default
    raise CompareError(
        f"the better direction of {metric!r} is unknown; give --mode max or --mode min"
    )


def label(metric: str) -> str:
    """Return the label of a metric: "test accuracy (fraction correct)" for `test/accuracy`."""
    split, slash, name = metric.partition("/")
    if not slash:
        split, name = "", metric
    words = f"{SPLITS.get(split, split)} {name.replace('_', ' ').replace('/', ' ')}".strip()
    return f"{words} ({UNITS[name]})" if name in UNITS else words
