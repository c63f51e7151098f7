"""What a metric's name says: its split, its direction, its unit."""

from __future__ import annotations

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
    """The test metric that belongs to a monitored validation metric."""
    split, slash, name = monitor.partition("/")
    if split != "val" or not slash:
        raise CompareError(f"the runs monitor {monitor!r}, not val/…; say --metric NAME")
    return f"test/{name}"


def direction(
    metric: str, monitor: str | None, mode: str | None, default: str | None = None
) -> str:
    """`max` where more is better, `min` where less is: as monitored, else by the name."""
    name = metric.partition("/")[2] or metric
    if monitor is not None and name == monitor.partition("/")[2]:
        return str(mode)
    if any(word in name for word in HIGHER):
        return "max"
    if any(word in name for word in LOWER):
        return "min"
    if default is not None:
        return default
    raise CompareError(f"is more {metric!r} better or worse? say --mode max or --mode min")


def label(metric: str) -> str:
    """`test/accuracy` for people: "test accuracy (fraction correct)"."""
    split, slash, name = metric.partition("/")
    if not slash:
        split, name = "", metric
    words = f"{SPLITS.get(split, split)} {name.replace('_', ' ').replace('/', ' ')}".strip()
    return f"{words} ({UNITS[name]})" if name in UNITS else words
