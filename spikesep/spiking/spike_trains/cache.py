"""A frozen prefix is a constant function of the input: its spikes are computed once a stage and kept as bit words.

So each stage of a conversion runs each example through one frozen layer more, not through all of them again.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from spikesep.spiking.signal import SpikeTrains


class SpikeCache:
    """The words of one frozen layer for examples 0..n_examples-1, which are all of one shape.

    Args:
        n_examples: how many there will be.
        trains: of any batch, of which N_s, the threshold and the shape of an example are taken.
        room: gives the uint8 tensor of a shape in which the words are kept; None for one in memory.
    """

    def __init__(
        self,
        n_examples: int,
        trains: SpikeTrains,
        room: Callable[[tuple[int, ...]], Tensor] | None = None,
    ):
        n_words, _, *shape = trains.words.shape
        self.n_steps = trains.n_steps
        self.threshold = trains.threshold.clone()
        self.multiple = trains.multiple
        self.in_memory = room is None
        shape = (n_examples, n_words, *shape)
        self._words = torch.empty(shape, dtype=torch.uint8) if room is None else room(shape)

    def put(self, indices: list[int], trains: SpikeTrains) -> None:
        """Keep the spikes of a batch, one index an example.

        Raises:
            ValueError: they come from a layer of another threshold.
        """
        if not torch.equal(self.threshold, trains.threshold):
            raise ValueError("a cache holds the spikes of one layer")
        self._words[indices] = trains.words.transpose(0, 1).cpu()

    def get(self, indices: list[int]) -> SpikeTrains:
        """The spikes of a batch, as if they had just been fired."""
        words = self._words[indices].transpose(0, 1).to(self.threshold.device)
        return SpikeTrains(words, self.n_steps, self.threshold, self.multiple)

    @staticmethod
    def size(n_examples: int, trains: SpikeTrains) -> int:
        """Bytes that a cache will take."""
        return n_examples * trains.words[:, 0].numel()

    @property
    def nbytes(self) -> int:
        """Size of the words."""
        return self._words.numel()
