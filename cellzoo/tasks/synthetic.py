"""Generated tasks that require long memory."""

import math
from typing import ClassVar, Literal

import torch
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

HELD_OUT = 1000


@register_task("adding")
class Adding(Task):
    """Add two marked numbers (Hochreiter & Schmidhuber 1997; as in Bai et al. 2018).

    x_t is (u, m): u is uniform in [0, 1]; m is 1 at one step of each half and 0 elsewhere. The
    target is the sum of the two marked u, predicted at the last step. The constant prediction 1
    has a mean squared error of 1/6.
    """

    input_size = 2
    output_size = 1
    length: int = option(50, "steps")
    train_size: int = option(3200, "new training examples per epoch")

    def examples(self, split: Split, epoch: int) -> Examples:
        """Return x (N, T, 2) and y (N,), with new training sequences in every epoch."""
        if self.length < 2:
            raise ValueError(f"task adding: length must be at least 2, not {self.length}")
        generator = self.generator(split, epoch)
        n, half = self.train_size if split == "train" else HELD_OUT, self.length // 2
        u = torch.rand(n, self.length, generator=generator)
        first = torch.randint(0, half, (n,), generator=generator)
        second = torch.randint(half, self.length, (n,), generator=generator)
        marks = functional.one_hot(first, self.length) + functional.one_hot(second, self.length)
        return TensorExamples(torch.stack([u, marks.float()], -1), (u * marks).sum(-1))

    def measure(self, prediction: Tensor, y: Tensor) -> dict[str, Measure]:
        """Return the mean squared error ("loss")."""
        return {"loss": Measure(functional.mse_loss(prediction.squeeze(-1), y), len(y))}


@register_task("copy")
class Copy(Task):
    """Repeat ten symbols after a delay (Arjovsky et al. 2016; as in Bai et al. 2018).

    The input is one-hot: ten symbols from 1..8, then T − 1 zeros, then eleven 9s. The target is
    T + 10 zeros, then the symbols. The loss is the mean cross-entropy over all T + 20 steps;
    without memory it is 10 ln 8 / (T + 20). The accuracy counts the ten symbols alone.
    """

    input_size = 10
    output_size = 9
    reads: Literal["last", "every"] = "every"
    length: int = option(100, "T, the delay")
    train_size: int = option(3200, "new training examples per epoch")

    symbols: ClassVar[int] = 10

    def examples(self, split: Split, epoch: int) -> Examples:
        """Return x (N, T + 20, 10) and y (N, T + 20), with new training sequences every epoch."""
        n = self.train_size if split == "train" else HELD_OUT
        total = self.length + 2 * self.symbols
        symbols = torch.randint(1, 9, (n, self.symbols), generator=self.generator(split, epoch))
        x = torch.zeros(n, total, dtype=torch.long)
        x[:, : self.symbols] = symbols
        x[:, -self.symbols - 1 :] = 9
        y = torch.zeros(n, total, dtype=torch.long)
        y[:, -self.symbols :] = symbols
        return TensorExamples(functional.one_hot(x, self.input_size).float(), y)

    def measure(self, prediction: Tensor, y: Tensor) -> dict[str, Measure]:
        """Return the cross-entropy over all steps in nats ("loss"), and the symbols' "accuracy"."""
        loss = functional.cross_entropy(prediction.transpose(1, 2), y)
        last = slice(-self.symbols, None)
        return {
            "loss": Measure(loss, y.numel()),
            "accuracy": accuracy(prediction[:, last], y[:, last]),
        }

    @property
    def memoryless_loss(self) -> float:
        """Return the loss of the best predictor without memory."""
        return self.symbols * math.log(8) / (self.length + 2 * self.symbols)
