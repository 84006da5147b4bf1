"""Maps that turn spikes into spikes: max pooling as a gate, and moves of spikes to other places."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spikesep.spiking.signal import Signal
from spikesep.spiking.spike_trains import packed


class SpikeMap(ABC):
    """A map without weights whose output for spikes is spikes."""

    @abstractmethod
    def of_values(self, x: Tensor) -> Tensor:
        """The map of analog values, [batch, ...] -> [batch, ...]."""

    @abstractmethod
    def of_words(self, words: Tensor, n_steps: int) -> Tensor:
        """The map of spikes as bit words, [n_words, batch, ...] -> [n_words, batch, ...]."""

    def __call__(self, signal: Signal) -> Signal:
        """The map of a signal: of its spikes and, where it carries a gradient, of its value."""
        trains = tuple(
            trains.with_spikes(self.of_words(trains.words, trains.n_steps))
            for trains in signal.trains
        )
        return Signal(self.of_values(signal.value) if signal.has_value else None, trains)


class Gate(SpikeMap):
    """Max pooling of spikes: a window fires when the largest count of its inputs so far grows.

    No count grows by more than one in a step, so the window's own count is the largest count of its
    inputs in every step. Rueckauer et al., "Conversion of continuous-valued deep networks to
    efficient event-driven networks for image classification", Front. Neurosci. 11, 2017, pass the
    spikes of the input with the highest rate instead, which is exact only for steady rates.

    Args:
        pool: `MaxPool1d` or `MaxPool2d`.
    """

    def __init__(self, pool: nn.Module):
        self.pool = pool

    @property
    def channel_dims(self) -> tuple[int, int]:
        """The dimension of the channels, from the first and from the last."""
        return (1, -2 if isinstance(self.pool, nn.MaxPool1d) else -3)

    def of_values(self, x: Tensor) -> Tensor:
        """See `SpikeMap`."""
        return self.pool(x)

    def of_words(self, words: Tensor, n_steps: int) -> Tensor:
        """See `SpikeMap`."""
        spikes = packed.unpack(words, n_steps)
        count = torch.zeros(spikes.shape[1:], device=words.device)
        largest, fired = None, []
        for s in spikes:
            count += s
            pooled = self.pool(count)
            fired.append(pooled > (0 if largest is None else largest))
            largest = pooled
        return packed.pack(torch.stack(fired))

    def __repr__(self) -> str:
        return type(self.pool).__name__


class Rearrangement(SpikeMap):
    """A map that moves, copies or drops elements, or inserts zeros.

    Args:
        function: maps [batch, ...] to [batch, ...] for any batch and number format.
        name: of the function, as a plan of conversion prints it.
        options: passed to the function.
    """

    def __init__(self, function: Callable[..., Tensor], name: str, **options: Any):
        self.function = function
        self.name = name
        self.options = options

    def of_values(self, x: Tensor) -> Tensor:
        """See `SpikeMap`."""
        return self.function(x, **self.options)

    def of_words(self, words: Tensor, n_steps: int) -> Tensor:
        """See `SpikeMap`."""
        moved = self.of_values(words.flatten(0, 1))
        return moved.unflatten(0, words.shape[:2]).contiguous()

    def __repr__(self) -> str:
        return self.name
