"""Batches of the data sets of a conversion."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SetName = Literal["train", "valid"]


@dataclass(frozen=True)
class ConversionData:
    """Data sets of a conversion.

    Attributes:
        train: fixed training examples (input, target); a `batch(indices)` method, if there is one,
            returns a whole batch.
        valid: fixed validation examples, likewise.
        fresh: batches of the first stage, different in each epoch; its sampler has `set_epoch`.
            None to train the first stage on `train`.
    """

    train: Dataset
    valid: Dataset
    fresh: DataLoader | None = None

    def size(self, name: SetName) -> int:
        """Return the number of examples of a set."""
        return len(getattr(self, name))


class Batches:
    """Batches of fixed examples, by index.

    Args:
        data: the data sets.
        batch_size: examples per batch.
        device: device of the batches.
        seed: seed of the order of training examples.
    """

    def __init__(
        self, data: ConversionData, batch_size: int, device: torch.device, *, seed: int = 0
    ):
        self.data = data
        self.batch_size = batch_size
        self.device = device
        self.seed = seed

    def in_order(self, name: SetName, limit: int | None = None) -> list[list[int]]:
        """Return the indices of each batch of a set, in order.

        Args:
            name: the set.
            limit: maximum number of examples; None for all.
        """
        n_examples = self.data.size(name)
        return list(self._split(list(range(min(n_examples, limit or n_examples)))))

    def shuffled(self, stage: int, epoch: int) -> list[list[int]]:
        """Return the indices of each batch of the training set, in the order of an epoch."""
        generator = np.random.default_rng((self.seed, stage, epoch))
        return list(self._split(generator.permutation(self.data.size("train")).tolist()))

    def fetch(self, name: SetName, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a batch."""
        examples = getattr(self.data, name)
        if hasattr(examples, "batch"):
            x, target = examples.batch(indices)
        else:
            x, target = map(torch.stack, zip(*(examples[i] for i in indices), strict=True))
        return x.to(self.device), target.to(self.device)

    def _split(self, indices: list[int]) -> Iterator[list[int]]:
        for start in range(0, len(indices), self.batch_size):
            yield indices[start : start + self.batch_size]
