"""The model of a run: an RNN with a linear head."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from cellzoo.config.schema import RunConfig
from cellzoo.nn.rnn import RNN

Reads = Literal["last", "every"]


class SequenceModel(nn.Module):
    """Predictions from a sequence: an RNN with batch_first, then a linear layer.

    Args:
        rnn: the recurrent part, with batch_first.
        output_size: O, the width of a prediction.
        reads: "last": one prediction per sequence, (B, O), from the output of the last step (of
            the first step, for the backward direction); "every": one per step, (B, T, O), or
            (rows, O) for packed input.

    >>> from cellzoo import RNN
    >>> model = SequenceModel(RNN("gru", 3, 8, batch_first=True), 5, "last")
    >>> model(torch.zeros(2, 7, 3)).shape
    torch.Size([2, 5])
    """

    def __init__(self, rnn: RNN, output_size: int, reads: Reads) -> None:
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.output_size, output_size)
        self.reads = reads

    def forward(self, x: Tensor | PackedSequence) -> Tensor:
        """Return predictions for x, (B, T, I) or packed."""
        output, _ = self.rnn(x)
        read = self._last(output) if self.reads == "last" else output
        prediction: Tensor = self.head(read.data if isinstance(read, PackedSequence) else read)
        return prediction

    def _last(self, output: Tensor | PackedSequence) -> Tensor:
        if isinstance(output, PackedSequence):
            output, lengths = pad_packed_sequence(output, batch_first=True)
            last = output[torch.arange(len(lengths)), lengths - 1]
        else:
            last = output[:, -1]
        if not self.rnn.bidirectional:
            return last
        half = last.shape[-1] // 2
        return torch.cat([last[:, :half], output[:, 0, half:]], -1)


def build_model(
    config: RunConfig,
    input_size: int,
    output_size: int,
    reads: Reads,
    engine: str | None = None,
) -> SequenceModel:
    """Return the model of a config, for a task of these sizes.

    Args:
        config: of the run.
        input_size, output_size, reads: of the task.
        engine: replaces the config's.
    """
    rnn = RNN(
        config.cell.name,
        input_size,
        config.hidden_size,
        config.num_layers,
        batch_first=True,
        dropout=config.dropout,
        bidirectional=config.bidirectional,
        init=config.init.to_mapping(),
        engine=engine or config.engine,
        checkpoint_steps=config.checkpoint_steps,
        **config.cell.options,
    )
    return SequenceModel(rnn, output_size, reads)
