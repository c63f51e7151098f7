"""`python -m cellzoo`."""

from cellzoo.cli import run

run()
