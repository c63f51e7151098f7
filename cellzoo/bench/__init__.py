"""Measuring cells on engines, beside torch.nn and other packages."""

from cellzoo.bench.command import main
from cellzoo.bench.errors import BenchError
from cellzoo.bench.report import report
from cellzoo.bench.run import bench
