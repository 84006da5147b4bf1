"""Wires: what a synapse receives, as a sum or concatenation of the outputs of earlier layers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from spikesep.spiking.signal import Signal, SpikeTrains
from spikesep.spiking.wiring.maps import Gate, SpikeMap

INPUT = "input"
"""Name of the network's input among the outputs of layers."""


class Wire(ABC):
    """Input of one synapse, read from the outputs of earlier layers."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The layers whose output it reads, or `INPUT`."""

    @abstractmethod
    def read(self, signals: Mapping[str, Signal]) -> Signal:
        """The signal that arrives, given the outputs of the layers."""

    @abstractmethod
    def units(self, multiples: Mapping[str, int]) -> int:
        """Largest sum of thresholds that can reach one input in a step.

        Args:
            multiples: threshold of each layer, in units common to the layers that meet.
        """

    @property
    def adds(self) -> bool:
        """Whether several layers' spikes can reach one input."""
        return False


@dataclass(frozen=True)
class Output(Wire):
    """The output of one layer, or the network's input."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """See `Wire`."""
        return (self.name,)

    def read(self, signals: Mapping[str, Signal]) -> Signal:
        """See `Wire`."""
        return signals[self.name]

    def units(self, multiples: Mapping[str, int]) -> int:
        """See `Wire`."""
        return multiples[self.name]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Sum(Wire):
    """The sum of several wires."""

    parts: tuple[Wire, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """See `Wire`."""
        return tuple(name for part in self.parts for name in part.names)

    def read(self, signals: Mapping[str, Signal]) -> Signal:
        """See `Wire`. Adds from left to right."""
        first, *others = (part.read(signals) for part in self.parts)
        return sum(others, start=first)

    def units(self, multiples: Mapping[str, int]) -> int:
        """See `Wire`."""
        return sum(part.units(multiples) for part in self.parts)

    @property
    def adds(self) -> bool:
        """See `Wire`."""
        return True

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


@dataclass(frozen=True)
class Concatenation(Wire):
    """Several wires side by side, in the order of channels.

    Attributes:
        parts: the wires.
        dim: dimension of [batch, ...] along which they lie; not 0.
    """

    parts: tuple[Wire, ...]
    dim: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """See `Wire`."""
        return tuple(name for part in self.parts for name in part.names)

    def read(self, signals: Mapping[str, Signal]) -> Signal:
        """See `Wire`. Each layer's spikes are silent in the channels of the others."""
        found = [part.read(signals) for part in self.parts]
        value = None
        if any(signal.has_value for signal in found):
            value = torch.cat([signal.value for signal in found], self.dim)
        if not all(signal.is_spiking for signal in found):
            return Signal(value)
        dim = self.dim if self.dim < 0 else self.dim + 1
        sizes = [signal.shape[self.dim] for signal in found]
        trains, begin = [], 0
        for signal, size in zip(found, sizes, strict=True):
            sides = (begin, sum(sizes) - begin - size)
            trains += [_beside_silence(t, dim, sides) for t in signal.trains]
            begin += size
        return Signal(value, tuple(trains))

    def units(self, multiples: Mapping[str, int]) -> int:
        """See `Wire`."""
        return max(part.units(multiples) for part in self.parts)

    @property
    def adds(self) -> bool:
        """See `Wire`."""
        return any(part.adds for part in self.parts)

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.parts))}]"


@dataclass(frozen=True)
class Mapped(Wire):
    """A wire behind a map of spikes to spikes.

    Raises:
        ValueError: max pooling of a sum, as the largest sum is not a sum of the largest; or over
            the positions of several layers, whose spikes count differently.
    """

    part: Wire
    map: SpikeMap

    def __post_init__(self):
        if not isinstance(self.map, Gate):
            return
        if self.part.adds:
            raise ValueError("max pooling of a sum of spikes has no spiking counterpart")
        if _joins_positions(self.part, self.map.channel_dims):
            raise ValueError(
                "max pooling over a concatenation of positions has no spiking counterpart"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """See `Wire`."""
        return self.part.names

    def read(self, signals: Mapping[str, Signal]) -> Signal:
        """See `Wire`."""
        return self.map(self.part.read(signals))

    def units(self, multiples: Mapping[str, int]) -> int:
        """See `Wire`."""
        return self.part.units(multiples)

    @property
    def adds(self) -> bool:
        """See `Wire`."""
        return self.part.adds

    def __str__(self) -> str:
        return f"{self.map!r}({self.part})"


def total(names: tuple[str, ...]) -> Wire:
    """The sum of the outputs of layers."""
    outputs = tuple(map(Output, names))
    return outputs[0] if len(outputs) == 1 else Sum(outputs)


def _joins_positions(wire: Wire, channel_dims: tuple[int, int]) -> bool:
    """Whether layers lie side by side in a wire in other dimensions than that of the channels."""
    if isinstance(wire, Concatenation):
        beside = wire.dim not in channel_dims
        return beside or any(_joins_positions(part, channel_dims) for part in wire.parts)
    return isinstance(wire, Mapped) and _joins_positions(wire.part, channel_dims)


def _beside_silence(trains: SpikeTrains, dim: int, sides: tuple[int, int]) -> SpikeTrains:
    """Spikes with silent inputs before and behind them along a dimension of their words."""
    words = trains.words
    shapes = [list(words.shape) for _ in sides]
    for shape, size in zip(shapes, sides, strict=True):
        shape[dim] = size
    before, behind = (words.new_zeros(shape) for shape in shapes)
    whole = torch.cat([before, words, behind], dim)
    return trains.with_spikes(whole)
