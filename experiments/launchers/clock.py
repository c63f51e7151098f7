"""A plugin: the digits task, which records the time at which a job reaches its first line."""

import os
import sys
import time
from pathlib import Path

from cellzoo import register_task
from cellzoo.tasks import Digits


@register_task("clock")
class Clock(Digits):
    """Handwritten digits. A job reads the training split first, and once."""

    def examples(self, split, epoch):
        if split == "train":
            now = time.time()
            Path(os.environ["CLOCK"], f"{os.getpid()}-{now}").write_text(f"{now} {sys.argv[-1]}")
        return super().examples(split, epoch)
