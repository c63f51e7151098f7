"""A plugin: the digits task, which notes when a job comes to its first line of work."""

import os
import sys
import time
from pathlib import Path

from cellzoo import register_task
from cellzoo.tasks import Digits


@register_task("clock")
class Clock(Digits):
    """Handwritten digits; its training split is asked for first, once a job."""

    def examples(self, split, epoch):
        if split == "train":
            now = time.time()
            Path(os.environ["CLOCK"], f"{os.getpid()}-{now}").write_text(f"{now} {sys.argv[-1]}")
        return super().examples(split, epoch)
