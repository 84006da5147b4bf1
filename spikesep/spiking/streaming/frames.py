"""Frames of a signal that layers still read, and the frames that a run of outputs reads."""

from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from spikesep.spiking.signal import Signal, SpikeTrains
from spikesep.spiking.spike_trains.packed import Bursts
from spikesep.spiking.synapses.convolution import ConvConnectivity, PartialConvConnectivity


@dataclass(frozen=True)
class Part:
    """The inputs that a run of outputs of a convolution reads, and how it reads them.

    Attributes:
        ranges: first frame and number of frames of each stretch of inputs, side by side.
        connectivity: the convolution of these inputs.
    """

    ranges: tuple[tuple[int, int], ...]
    connectivity: PartialConvConnectivity


def part_of(sizes: ConvConnectivity, start: int, n: int, end: int | None) -> Part:
    """The inputs of outputs start..start+n-1.

    Frames between the taps of a kernel with a dilation above n are left out: the taps then lie n
    apart.

    Args:
        sizes: a convolution with one output frame per input frame.
        start: first output.
        n: number of outputs.
        end: number of frames of the whole signal; None while it goes on.
    """
    ((back, ahead),), (dilation,), (size,) = sizes.margins, sizes.dilation, sizes.kernel_size
    first, stop = start - back, start + n + ahead
    begin, last = max(0, first), stop if end is None else min(stop, end)
    if n < dilation and (begin, last) == (first, stop):
        ranges = tuple((first + tap * dilation, n) for tap in range(size))
        return Part(ranges, _partial(sizes, n, (0, 0), sizes.home[0] * n))
    margins = (begin - first, stop - last)
    return Part(((begin, last - begin),), _partial(sizes, dilation, margins, start - begin))


@lru_cache(maxsize=1024)
def _partial(
    sizes: ConvConnectivity, dilation: int, margins: tuple[int, int], begin: int
) -> PartialConvConnectivity:
    values = {each.name: getattr(sizes, each.name) for each in fields(ConvConnectivity)}
    values |= {"dilation": (dilation,), "padding": (margins,), "begin": begin}
    return PartialConvConnectivity(**values)


class FrameBuffer:
    """The frames of a signal [batch, C, n] that are still needed, addressed by their index.

    Holds words, counts of bursts, or values with the channels last, as engines read them.

    Attributes:
        start: the first frame that is kept.
        stop: number of frames received.
    """

    def __init__(self):
        self.start = self.stop = 0
        self._trains: SpikeTrains | None = None  # what the spikes of this signal mean
        self._holds_bursts = False
        self._store = torch.empty(0)  # [..., capacity, C]
        self._offset = 0  # of frame `start` in it

    def append(self, signal: Signal) -> None:
        """Take the next frames: the spikes of one layer, or analog values."""
        frames = self._kept(signal).movedim(-1, -2)
        self._trains = signal.trains[0] if signal.trains else None
        n = frames.shape[-2]
        self._make_room(frames, n)
        self._store.narrow(-2, self._offset + self.stop - self.start, n).copy_(frames)
        self.stop += n

    def read(self, ranges: tuple[tuple[int, int], ...]) -> Signal:
        """The frames of each range, side by side. Valid until the next `append`."""
        shift = self._offset - self.start
        found = [self._store.narrow(-2, shift + first, n) for first, n in ranges]
        frames = (found[0] if len(found) == 1 else torch.cat(found, -2)).movedim(-2, -1)
        if self._trains is None:
            return Signal(frames)
        fired = Bursts(frames) if self._holds_bursts else frames
        return Signal(trains=(self._trains.with_spikes(fired),))

    def forget(self, before: int) -> None:
        """Drop the frames before an index."""
        before = min(max(before, self.start), self.stop)
        self._offset += before - self.start
        self.start = before

    def _kept(self, signal: Signal) -> Tensor:
        """What is kept of a signal. A layer that once gave bursts fires nothing else."""
        if not signal.trains:
            return signal.value
        trains = signal.trains[0]
        if self._trains is None:
            self._holds_bursts = trains.bursts is not None
        if not self._holds_bursts:
            return trains.words
        return trains.count.to(self._store.dtype) if trains.bursts is None else trains.bursts

    def _make_room(self, like: Tensor, n: int) -> None:
        """Move the frames to the front, of a larger store if need be, if n more do not fit."""
        kept = self.stop - self.start
        capacity = self._store.shape[-2] if self._store.ndim > 1 else 0
        if self._offset + kept + n <= capacity:
            return
        old, offset = self._store, self._offset
        if 2 * (kept + n) > capacity:
            shape = (*like.shape[:-2], 4 * (kept + n), like.shape[-1])
            self._store = torch.empty(shape, dtype=like.dtype, device=like.device)
        if kept:
            self._store.narrow(-2, 0, kept).copy_(old.narrow(-2, offset, kept).clone())
        self._offset = 0
