"""The order of the training examples: drawn anew in each epoch, the same for the same seed and epoch."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler):
    """(epoch, index) of every example, shuffled; Lightning tells it the epoch.

    Args:
        n: number of examples.
        seed: of the order.
    """

    def __init__(self, n: int, seed: int):
        self.n = n
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order, and what follows from (epoch, index), of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n)
        return ((self.epoch, int(index)) for index in order)
