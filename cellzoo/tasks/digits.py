"""Handwritten digits, which come with scikit-learn."""

from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional

from cellzoo.names.options import option
from cellzoo.tasks.base import (
    Examples,
    Measure,
    Split,
    Task,
    TensorExamples,
    accuracy,
    register_task,
)


@register_task("digits")
class Digits(Task):
    """Classify the 8×8 handwritten digits of scikit-learn (UCI, Alpaydin & Kaynak 1998).

    An image is a sequence of 8 rows of 8 pixels, or of 64 pixels. The digit is predicted at the
    last step. The split is fixed and stratified: 1077 images for training, 360 for validation
    and 360 for testing.
    """

    output_size = 10
    monitor: ClassVar[str] = "val/accuracy"
    mode: ClassVar[Literal["min", "max"]] = "max"
    read: str = option("rows", "the content of a step", choices=("rows", "pixels"))

    @property
    def input_size(self) -> int:  # type: ignore[override]
        """Return 8 for rows and 1 for pixels."""
        return 8 if self.read == "rows" else 1

    @cached_property
    def _splits(self) -> dict[Split, TensorExamples]:
        images, labels = load_digits(return_X_y=True)
        kept, test = train_test_split(
            np.arange(len(labels)), test_size=360, stratify=labels, random_state=0
        )
        train, val = train_test_split(kept, test_size=360, stratify=labels[kept], random_state=0)
        x = torch.tensor(images / 16, dtype=torch.float32).reshape(len(labels), -1, self.input_size)
        y = torch.tensor(labels)
        parts: dict[Split, np.ndarray] = {"train": train, "val": val, "test": test}
        return {split: TensorExamples(x[rows], y[rows]) for split, rows in parts.items()}

    def examples(self, split: Split, epoch: int) -> Examples:
        """Return x (N, 8, 8) or (N, 64, 1), and y (N,)."""
        return self._splits[split]

    def measure(self, prediction: Tensor, y: Tensor) -> dict[str, Measure]:
        """Return the cross-entropy in nats ("loss") and the "accuracy"."""
        loss = Measure(functional.cross_entropy(prediction, y), len(y))
        return {"loss": loss, "accuracy": accuracy(prediction, y)}
