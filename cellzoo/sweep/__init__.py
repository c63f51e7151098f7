"""Runs by command: one, or many after each other."""

from cellzoo.sweep.command import many, one

__all__ = ["many", "one"]
