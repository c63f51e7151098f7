"""Comparing finished runs: reading, statistics, tables and plots, from run directories alone."""

from cellzoo.compare.command import main
from cellzoo.compare.errors import CompareError
from cellzoo.compare.read import read_curves, read_runs
from cellzoo.compare.report import Comparison, compare
