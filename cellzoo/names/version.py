"""The version of cellzoo."""

__version__ = "0.1.0"
