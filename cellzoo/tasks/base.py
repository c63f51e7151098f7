"""What a task is: data, what is asked of it, and how an answer is scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor, distributed
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, Sampler

from cellzoo.names.options import option, resolve
from cellzoo.names.registry import Registry

Split = Literal["train", "val", "test"]
Batch = tuple[Any, Any]

tasks: Registry[type[Task]] = Registry("task")

# Validation and test examples are drawn from keys of their own, never from the run's seed.
SPLIT_KEY: Mapping[Split, int] = {"val": 1, "test": 2}


class Measure(tuple[Tensor, int]):
    """A mean over a batch, and over how many things it was taken: `Measure(mean, count)`.

    Means over a split weigh every batch by its count.
    """

    def __new__(cls, mean: Tensor, count: int) -> Measure:
        """Pair a mean with its count."""
        return super().__new__(cls, (mean, count))


class Examples(Protocol):
    """The examples of one split: a length, and batches by indices."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch: ...


class TensorExamples:
    """Examples of equal length: x (N, T, I) and targets (N, …)."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """x (B, T, I) and targets (B, …)."""
        rows = torch.as_tensor(indices)
        return self.x[rows], self.y[rows]


class PackedExamples:
    """Examples of different lengths: lists of x (T, I) and of targets (T, …)."""

    def __init__(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """x and targets as PackedSequences, packed alike."""
        x = pack_sequence([self.x[i] for i in indices], enforce_sorted=False)
        return x, pack_sequence([self.y[i] for i in indices], enforce_sorted=False)


class TrainingBatches(Sampler[list[int]]):
    """The batches of an epoch, as indices: a random order, of the generator's seed alone.

    Several ranks share a batch of world × batch_size examples in contiguous parts, as even as
    they come, so that together they see what one process with batches of that size sees. The last
    batch is left out where it has fewer examples than there are ranks.

    Args:
        size: N, the number of examples.
        batch_size: of each rank.
        seed: of the order.
        first: how many batches are done already.
    """

    def __init__(self, size: int, batch_size: int, seed: int, first: int = 0) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.first = first
        self.rank, self.world = rank_and_world()

    def __len__(self) -> int:
        """The number of batches in the whole epoch."""
        whole, rest = divmod(self.size, self.batch_size * self.world)
        return whole + (rest >= self.world)

    def __iter__(self) -> Iterator[list[int]]:
        """Drawn anew each time: how often an epoch is begun must not matter."""
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed))
        for batch in order.split(self.batch_size * self.world)[self.first : len(self)]:
            yield batch.tensor_split(self.world)[self.rank].tolist()


class Task(LightningDataModule):
    """A task: a Lightning data module, and what is asked of it.

    A task declares the attributes below and options (`length: int = option(50, "…")`), and writes
    `examples` and `measure`.

    Args:
        seed: the run's seed: it orders the training examples, and generates them where they are
            generated. Validation and test examples never depend on it.
        root: the folder with data files; None: the environment variable CELLZOO_DATA, else a
            cache of the user's.
        options: the task's own.

    Attributes:
        input_size, output_size: the widths of x and of the model's predictions.
        reads: whether predictions are asked for at the "last" step or at "every" one.
        monitor, mode: the validation metric that picks checkpoints and what is better, "min" or
            "max"; metrics are called `<split>/<name>`.
    """

    input_size: int
    output_size: int
    reads: Literal["last", "every"] = "last"
    monitor: ClassVar[str] = "val/loss"
    mode: ClassVar[Literal["min", "max"]] = "min"
    registered_name: ClassVar[str] = ""

    batch_size: int = option(32, "examples in a training batch")

    def __init__(self, *, seed: int = 0, root: str | None = None, **options: Any) -> None:
        super().__init__()
        self.seed = seed
        self.root = root
        self.options = resolve(type(self), f"task {self.registered_name}", options)
        for name, value in self.options.items():
            setattr(self, name, value)
        self.first_batch = 0  # to begin the next epoch with, where a run goes on within one
        for name in ("batch_size", "length", "train_size"):
            if self.options.get(name, 1) < 1:
                raise ValueError(f"task {self.registered_name}: {name} must be at least 1")

    # -- what a task writes ------------------------------------------------------------------

    def examples(self, split: Split, epoch: int) -> Examples:
        """The examples of a split; `epoch` matters only where training examples are generated."""
        raise NotImplementedError

    def measure(self, prediction: Tensor, y: Any) -> dict[str, Measure]:
        """Score a batch. The entry "loss" is trained on; all are reported.

        Args:
            prediction: (B, O) for reads="last"; (B, T, O) for "every", (rows, O) if packed.
            y: the targets as `examples` gave them.
        """
        raise NotImplementedError

    # -- the rest ----------------------------------------------------------------------------

    def generator(self, split: Split, epoch: int) -> torch.Generator:
        """Random numbers for a split: of the run and epoch for training, else the split's own."""
        return torch.Generator().manual_seed(self._seed_of(split, epoch))

    def _seed_of(self, split: Split, epoch: int) -> int:
        key = (0, self.seed, epoch) if split == "train" else (SPLIT_KEY[split],)
        # Mixed by NumPy: torch's generator on the CPU reads only 32 bits of its seed.
        return int(np.random.SeedSequence(key).generate_state(1)[0])

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches, in an order of the run's seed and the epoch."""
        trainer = self.trainer
        if trainer is not None and getattr(trainer, "overfit_batches", False):
            # The same batch over and over, of generated examples too.
            examples = self.examples("train", 0)
            return self._loader(examples, self.batch_size, range(len(examples)))
        epoch = trainer.current_epoch if trainer is not None else 0
        examples, seed = self.examples("train", epoch), self._seed_of("train", epoch)
        batches = TrainingBatches(len(examples), self.batch_size, seed, self.first_batch)
        self.first_batch = 0
        return DataLoader(
            examples,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=_as_it_is,
            generator=torch.Generator(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches."""
        return self._held_out("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches."""
        return self._held_out("test")

    def _held_out(self, split: Split) -> DataLoader[Any]:
        examples = self.examples(split, 0)
        indices = range(len(examples))
        rank, world = rank_and_world()
        if len(examples) < world:
            raise ValueError(f"{world} ranks cannot share {len(examples)} {split} examples")
        # Every example once: Lightning's sampler would repeat some to even out the ranks.
        indices = indices[rank::world]
        return self._loader(examples, max(self.batch_size, 256), indices)

    def _loader(self, examples: Any, batch_size: int, sampler: Any) -> DataLoader[Any]:
        # A generator of its own: a loader draws from the global one each time that it begins.
        return DataLoader(
            examples,
            batch_size,
            sampler=sampler,
            collate_fn=_as_it_is,
            generator=torch.Generator(),
        )


def rank_and_world() -> tuple[int, int]:
    """Which of how many processes that train together this is; (0, 1) for one alone."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _as_it_is(batch: Any) -> Any:
    return batch


def accuracy(prediction: Tensor, y: Tensor) -> Measure:
    """The share of predictions whose largest logit is the target's."""
    return Measure((prediction.argmax(-1) == y).float().mean(), y.numel())


def rows(y: Tensor | PackedSequence) -> Tensor:
    """Targets as a tensor: a PackedSequence's rows."""
    return y.data if isinstance(y, PackedSequence) else y


def register_task(name: str) -> Any:
    """Register a task under a name: `task=name` finds it from then on.

    Raises:
        DuplicateNameError: the name is taken.
        TypeError: what is decorated is not a Task.
    """

    return tasks.register_class(name, Task)


def list_tasks(pattern: str = "*") -> list[str]:
    """The names of the registered tasks that match a shell-style pattern, sorted."""
    return tasks.names(pattern)
