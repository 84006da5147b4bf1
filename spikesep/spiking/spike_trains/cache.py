"""Cache of the spikes of a frozen prefix, which is a constant function of the input.

Each stage of a conversion then runs every example through one more frozen layer instead of all of
them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from spikesep.spiking.signal import SpikeTrains


class SpikeCache:
    """Words of one frozen layer for n_examples examples of one shape.

    Args:
        n_examples: number of examples.
        trains: spikes of any batch, for N_s, threshold and the shape of an example.
        room: allocates the uint8 tensor of a shape; None allocates it in memory.
    """

    def __init__(
        self,
        n_examples: int,
        trains: SpikeTrains,
        room: Callable[[tuple[int, ...]], Tensor] | None = None,
    ):
        n_words, (_, *shape) = -(-trains.n_steps // 8), trains.shape
        self.n_steps = trains.n_steps
        self.threshold = trains.threshold.clone()
        self.multiple = trains.multiple
        self.in_memory = room is None
        shape = (n_examples, n_words, *shape)
        self._words = torch.empty(shape, dtype=torch.uint8) if room is None else room(shape)

    def put(self, indices: list[int], trains: SpikeTrains) -> None:
        """Store the spikes of a batch, one index per example.

        Raises:
            ValueError: they come from a layer with another threshold.
        """
        if not torch.equal(self.threshold, trains.threshold):
            raise ValueError("a cache holds the spikes of one layer")
        self._words[indices] = trains.words.transpose(0, 1).cpu()

    def get(self, indices: list[int]) -> SpikeTrains:
        """The spikes of a batch, as if just fired."""
        words = self._words[indices].transpose(0, 1).to(self.threshold.device)
        return SpikeTrains(words, self.n_steps, self.threshold, self.multiple)

    @staticmethod
    def size(n_examples: int, trains: SpikeTrains) -> int:
        """Bytes that a cache would take."""
        return n_examples * -(-trains.n_steps // 8) * trains.shape[1:].numel()

    @property
    def nbytes(self) -> int:
        """Bytes of the cached words."""
        return self._words.numel()
