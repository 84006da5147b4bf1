"""Spike trains as bit words: bit t of a neuron's word is its spike in step t, so that N_s = 8 costs one byte a neuron.

A frozen prefix is a constant function of the input. `SpikeCache` keeps the words behind it for every training example,
so that each stage of a conversion runs each example through one frozen layer more, not through all of them again.
"""

import torch
from torch import Tensor

from spikesep.spiking.signal import Signal, SpikeTrains


def pack(spikes: Tensor) -> Tensor:
    """[N_s, ...] bool -> [ceil(N_s / 8), ...] uint8; bit t % 8 of word t // 8 is the spike in step t."""
    n_steps = spikes.shape[0]
    words = torch.zeros(-(-n_steps // 8), *spikes.shape[1:], dtype=torch.uint8, device=spikes.device)
    for t in range(n_steps):
        words[t // 8] |= spikes[t].to(torch.uint8) << (t % 8)
    return words


def unpack(words: Tensor, n_steps: int) -> Tensor:
    """Inverse of `pack`: [ceil(N_s / 8), ...] uint8 -> [N_s, ...] bool."""
    spikes = torch.empty(n_steps, *words.shape[1:], dtype=torch.uint8, device=words.device)
    for t in range(n_steps):
        torch.bitwise_right_shift(words[t // 8], t % 8, out=spikes[t]).bitwise_and_(1)
    return spikes.view(torch.bool)  # bytes of 0 and 1 are bools already


class SpikeCache:
    """Packed spikes of one frozen layer, one entry an example.

    Args:
        trains: the first batch of them, of which N_s and the threshold are taken.
    """

    def __init__(self, trains: SpikeTrains):
        self.n_steps = len(trains.spikes)
        self.threshold = trains.threshold.clone()
        self._words: dict[int, Tensor] = {}

    def put(self, indices: list[int], trains: SpikeTrains) -> None:
        """Keep the spikes of a batch, one index an example.

        Raises:
            ValueError: they come from a layer of another threshold.
        """
        if not torch.equal(self.threshold, trains.threshold):
            raise ValueError("a cache holds the spikes of one layer")
        words = pack(trains.spikes).cpu()
        for column, index in enumerate(indices):
            self._words[index] = words[:, column].clone()

    def get(self, indices: list[int]) -> Signal:
        """The signal of a batch, as if it had just come out of the frozen layer."""
        words = torch.stack([self._words[index] for index in indices], 1).to(self.threshold.device)
        return Signal.from_spikes(unpack(words, self.n_steps), self.threshold)

    def __len__(self) -> int:
        return len(self._words)

    @property
    def nbytes(self) -> int:
        """Memory of the words."""
        return sum(words.numel() for words in self._words.values())
