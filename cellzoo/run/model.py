"""An RNN with a linear head: what a run trains."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from cellzoo.nn.rnn import RNN


class SequenceModel(nn.Module):
    """Predictions from a sequence: an RNN (batch first), then a linear layer.

    Args:
        rnn: the recurrent part, with batch_first.
        output_size: O, the width of a prediction.
        reads: "last": one prediction a sequence, (B, O), from the output of its last step (and of
            its first, backwards); "every": one a step, (B, T, O), or (rows, O) if packed.
    """

    def __init__(self, rnn: RNN, output_size: int, reads: Literal["last", "every"]) -> None:
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.output_size, output_size)
        self.reads = reads

    def forward(self, x: Tensor | PackedSequence) -> Tensor:
        """Predictions for x, (B, T, I) or packed."""
        output, _ = self.rnn(x)
        if self.reads == "every":
            rows = output.data if isinstance(output, PackedSequence) else output
            return self.head(rows)
        return self.head(self._last(output))

    def _last(self, output: Any) -> Tensor:
        if isinstance(output, PackedSequence):
            output, lengths = pad_packed_sequence(output, batch_first=True)
            last = output[torch.arange(len(lengths)), lengths - 1]
        else:
            last = output[:, -1]
        if not self.rnn.bidirectional:
            return last
        forwards = last[:, : last.shape[-1] // 2]
        backwards = output[:, 0, last.shape[-1] // 2 :]
        return torch.cat([forwards, backwards], -1)
