"""Tasks: examples to train on, and the measures that score predictions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, Sampler

from cellzoo.names.options import option, resolve
from cellzoo.names.registry import Registry
from cellzoo.system import ranks

Split = Literal["train", "val", "test"]
Batch = tuple[Any, Any]

tasks: Registry[type[Task]] = Registry("task")

# Validation and test examples are drawn from keys of their own, never from the run's seed.
SPLIT_KEY: Mapping[Split, int] = {"val": 1, "test": 2}


class Measure(tuple[Tensor, int]):
    """A mean over a batch and the number of values in it: `Measure(mean, count)`.

    The mean over a split weighs the mean of every batch by its count.

    Example:
        >>> errors = torch.tensor([0.0, 1.0, 2.0])
        >>> mean, count = Measure(errors.mean(), len(errors))
        >>> float(mean), count
        (1.0, 3)
    """

    def __new__(cls, mean: Tensor, count: int) -> Measure:
        """Create a pair of a mean and its count."""
        return super().__new__(cls, (mean, count))


class Examples(Protocol):
    """The examples of one split: a length, and batches by indices."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch: ...


class TensorExamples:
    """Examples of equal length.

    Args:
        x: The inputs, (N, T, I).
        y: The targets, (N, …).

    Example:
        >>> examples = TensorExamples(torch.zeros(100, 20, 3), torch.zeros(100))
        >>> x, y = examples.__getitems__([4, 7])
        >>> x.shape, y.shape
        (torch.Size([2, 20, 3]), torch.Size([2]))
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a batch: x (B, T, I) and targets (B, …)."""
        rows = torch.as_tensor(indices)
        return self.x[rows], self.y[rows]


class PackedExamples:
    """Examples of different lengths.

    Args:
        x: The inputs, a list of (T, I).
        y: The targets, a list of (T, …).

    Example:
        >>> sequences = [torch.zeros(steps, 3) for steps in (5, 2, 4)]
        >>> x, y = PackedExamples(sequences, sequences).__getitems__([0, 1])
        >>> x.batch_sizes
        tensor([2, 2, 1, 1, 1])
    """

    def __init__(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a batch: x and targets as PackedSequences with the same packing."""
        x = pack_sequence([self.x[i] for i in indices], enforce_sorted=False)
        return x, pack_sequence([self.y[i] for i in indices], enforce_sorted=False)


class TrainingBatches(Sampler[list[int]]):
    """A sampler of training batches, as indices in a random order that depends on a seed alone.

    Several ranks share a batch of world size × batch_size examples in contiguous parts of nearly
    equal size. Together they see the examples that one process with batches of that size sees.
    The last batch is dropped where it has fewer examples than there are ranks.

    Args:
        size: N, the number of examples.
        batch_size: The batch size of each rank.
        seed: The seed of the order.
        first: The number of batches that are already done.

    Example:
        >>> batches = TrainingBatches(size=10, batch_size=4, seed=0)
        >>> [len(batch) for batch in batches]
        [4, 4, 2]
    """

    def __init__(self, size: int, batch_size: int, seed: int, first: int = 0) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.first = first
        self.rank, self.world = ranks.rank(), ranks.world_size()

    def __len__(self) -> int:
        """Return the number of batches in the whole epoch."""
        whole, rest = divmod(self.size, self.batch_size * self.world)
        return whole + (rest >= self.world)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the remaining batches of this rank, in the same order at every call."""
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed))
        for batch in order.split(self.batch_size * self.world)[self.first : len(self)]:
            yield batch.tensor_split(self.world)[self.rank].tolist()


class Task(LightningDataModule):
    """A task: a Lightning data module with examples and measures.

    A subclass declares the attributes below and its options (`length: int = option(50, "…")`),
    and defines `examples` and `measure`.

    Args:
        seed: The run's seed. It orders the training examples and generates them, if the task
            generates examples. Validation and test examples never depend on it.
        root: The folder of the data files. None: the environment variable CELLZOO_DATA, or else
            the user's cache.
        options: The task's own options.

    Attributes:
        input_size: The width of x.
        output_size: The width of the model's predictions.
        reads: The steps with a prediction: the "last" step, or "every" step.
        monitor: The validation metric that selects checkpoints. A metric is named
            `<split>/<name>`.
        mode: Whether a good value of `monitor` is small ("min") or large ("max").
        registered_name: The name under which the task is registered.

    Example:
        >>> from cellzoo import Task, option, register_task
        >>> from cellzoo.tasks.base import Measure, TensorExamples, accuracy
        >>> @register_task("parity")
        ... class Parity(Task):
        ...     input_size, output_size = 1, 2
        ...     length: int = option(20, "steps")
        ...
        ...     def examples(self, split, epoch):
        ...         generator = self.generator(split, epoch)
        ...         bits = torch.randint(2, (1000, self.length, 1), generator=generator)
        ...         return TensorExamples(bits.float(), bits.sum((1, 2)) % 2)
        ...
        ...     def measure(self, prediction, y):
        ...         loss = torch.nn.functional.cross_entropy(prediction, y)
        ...         return {"loss": Measure(loss, len(y)), "accuracy": accuracy(prediction, y)}
        >>> x, y = next(iter(Parity(length=5).train_dataloader()))
        >>> x.shape, y.shape
        (torch.Size([32, 5, 1]), torch.Size([32]))

    With these lines in a file, `cellzoo train --plugin FILE task=parity task.length=5` trains a
    cell on the task.
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
        self.first_batch = 0  # of the next epoch, where a run resumes within an epoch
        for name in ("batch_size", "length", "train_size"):
            if self.options.get(name, 1) < 1:
                raise ValueError(f"task {self.registered_name}: {name} must be at least 1")

    # -- to be defined by a task -------------------------------------------------------------

    def examples(self, split: Split, epoch: int) -> Examples:
        """Return the examples of a split.

        Args:
            split: "train", "val" or "test".
            epoch: The epoch. It matters only for training examples that are generated.
        """
        raise NotImplementedError

    def measure(self, prediction: Tensor, y: Any) -> dict[str, Measure]:
        """Return the measures of a batch by name. All are logged; "loss" is minimised.

        Args:
            prediction: (B, O) for reads="last"; (B, T, O) for "every", or (rows, O) if packed.
            y: The targets, as `examples` returns them.
        """
        raise NotImplementedError

    # -- for tasks and for Lightning ---------------------------------------------------------

    def generator(self, split: Split, epoch: int) -> torch.Generator:
        """Return a random generator for a split.

        For "train" it depends on the run's seed and the epoch, otherwise on the split alone.
        """
        return torch.Generator().manual_seed(self._seed_of(split, epoch))

    def _seed_of(self, split: Split, epoch: int) -> int:
        key = (0, self.seed, epoch) if split == "train" else (SPLIT_KEY[split],)
        # NumPy mixes the key: torch's generator on the CPU reads only 32 bits of its seed.
        return int(np.random.SeedSequence(key).generate_state(1)[0])

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches, in an order that depends on the run's seed and the epoch."""
        trainer = self.trainer
        if trainer is not None and getattr(trainer, "overfit_batches", False):
            # The same batch again and again, also where examples are generated.
            examples = self.examples("train", 0)
            return _loader(examples, batch_size=self.batch_size, sampler=range(len(examples)))
        epoch = trainer.current_epoch if trainer is not None else 0
        examples, seed = self.examples("train", epoch), self._seed_of("train", epoch)
        batches = TrainingBatches(len(examples), self.batch_size, seed, self.first_batch)
        self.first_batch = 0
        return _loader(examples, batch_sampler=batches)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation batches of this rank."""
        return self._held_out("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test batches of this rank."""
        return self._held_out("test")

    def _held_out(self, split: Split) -> DataLoader[Any]:
        examples, world_size = self.examples(split, 0), ranks.world_size()
        if len(examples) < world_size:
            raise ValueError(f"{world_size} ranks cannot share {len(examples)} {split} examples")
        # Every example once: Lightning's sampler would repeat some to even out the ranks.
        indices = range(ranks.rank(), len(examples), world_size)
        return _loader(examples, batch_size=max(self.batch_size, 256), sampler=indices)


def _loader(examples: Any, **arguments: Any) -> DataLoader[Any]:
    """Return a loader with its own generator: by default every epoch draws from the global one."""
    generator = torch.Generator()
    return DataLoader(examples, collate_fn=_uncollated, generator=generator, **arguments)


def _uncollated(batch: Any) -> Any:
    """Return a batch as `__getitems__` made it."""
    return batch


def accuracy(prediction: Tensor, y: Tensor) -> Measure:
    """Return the fraction of predictions with the largest logit at the target's class.

    Args:
        prediction: Logits, (…, O).
        y: Class indices, (…).

    Example:
        >>> logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
        >>> accuracy(logits, torch.tensor([0, 1, 1]))
        (tensor(0.6667), 3)
    """
    return Measure((prediction.argmax(-1) == y).float().mean(), y.numel())


def rows(y: Tensor | PackedSequence) -> Tensor:
    """Return the targets as a tensor: the rows of a PackedSequence, or the tensor itself."""
    return y.data if isinstance(y, PackedSequence) else y


def register_task(name: str, deprecated: Collection[str] = ()) -> Any:
    """Return a class decorator that registers a task; see `Task` for an example.

    Args:
        name: The name by which `task=name` finds the task, in snake case.
        deprecated: Former names of the task. They still work, warn once and are not listed.

    Raises:
        DuplicateNameError: A name is taken.
        TypeError: The decorated object is not a subclass of Task.
    """
    return tasks.register_class(name, Task, deprecated)


def list_tasks(pattern: str = "*") -> list[str]:
    """Return the names of the registered tasks that match a shell-style pattern, sorted.

    >>> list_tasks("a*")
    ['adding']
    """
    return tasks.names(pattern)
