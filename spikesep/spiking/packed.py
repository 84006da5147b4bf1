"""Spike trains as bit words: bit t of a neuron's word is its spike in step t, so that N_s = 8 costs one byte a neuron.

A frozen prefix is a constant function of the input. `SpikeCache` keeps the words behind it for every training example,
so that each stage of a conversion runs each example through one frozen layer more, not through all of them again.
"""

import torch
from torch import Tensor

from spikesep.spiking.signal import Signal


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
    """Packed spikes behind the frozen prefix, one entry an example; all entries come from one layer.

    Args:
        n_steps: N_s.
    """

    def __init__(self, n_steps: int):
        self.n_steps = n_steps
        self.threshold: Tensor | None = None
        self._words: dict[int, Tensor] = {}

    def put(self, indices: list[int], signal: Signal) -> None:
        """Keep the spikes of a batch, one index an example.

        Raises:
            ValueError: they come from a layer of another threshold than those that are there.
        """
        if self.threshold is not None and not torch.equal(self.threshold, signal.threshold):
            raise ValueError("a cache holds the spikes of one layer")
        self.threshold = signal.threshold
        words = pack(signal.spikes).cpu()
        for column, index in enumerate(indices):
            self._words[index] = words[:, column].clone()

    def get(self, indices: list[int]) -> Signal:
        """The signal of a batch, as if it had just come out of the frozen layer."""
        words = torch.stack([self._words[index] for index in indices], 1).to(self.threshold.device)
        return Signal.from_spikes(unpack(words, self.n_steps), self.threshold)

    def forget(self, indices: list[int]) -> None:
        """Free the memory of a batch."""
        for index in indices:
            del self._words[index]

    def __len__(self) -> int:
        return len(self._words)

    @property
    def nbytes(self) -> int:
        """Memory of the words."""
        return sum(words.numel() for words in self._words.values())
