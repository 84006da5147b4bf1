"""Streams whose voices have the band of the recording."""

from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from spikesep.separation.audio.resampling import Window
from spikesep.separation.inference.band.high_bands import CELL_SECONDS, HighBands
from spikesep.separation.inference.output_level import LevelMeter
from spikesep.separation.inference.streaming import Wave, to_mono
from spikesep.separation.model.latency import Delays
from spikesep.separation.tracks.rttm import Turn
from spikesep.spiking.cost import Cost


class _VoiceStream(Protocol):
    """A stream of voices: a `Stream`, or one whose voices follow their speakers."""

    @property
    def sample_rate(self) -> int: ...
    @property
    def cost(self) -> Cost: ...
    @property
    def delays(self) -> Delays: ...
    def push(self, block: np.ndarray) -> np.ndarray: ...
    def flush(self) -> np.ndarray: ...


class FullBandStream:
    """A stream whose voices have the band of the recording; used like a `Stream`.

    Below the crossover the voices are those of the stream, at its level. The high band follows them
    by the factor with which the voices so far add up to the recording.

    Args:
        stream: separates the recording; it was not pushed into yet.
        n_voices: voices of the stream, S.
        network_rate: sample rate of the separator in Hz, lower than that of the recording.
        gated: see `HighBands`.
    """

    def __init__(self, stream: _VoiceStream, n_voices: int, network_rate: int, *, gated: bool):
        self.sample_rate = stream.sample_rate
        self._stream = stream
        self._bands = HighBands(n_voices, stream.sample_rate, network_rate, gated=gated)
        self._cell = max(1, round(CELL_SECONDS * stream.sample_rate))
        self._mixture, self._pairs = Window(), Window()
        self._meter = LevelMeter(n_voices)

    @property
    def cost(self) -> Cost:
        """Operations of the separator so far."""
        return self._stream.cost

    @property
    def delays(self) -> Delays:
        """What the delay of a voice consists of."""
        own = self._cell / self.sample_rate + self._bands.latency
        return replace(self._stream.delays, band=own)

    @property
    def latency(self) -> float:
        """Largest delay of a voice in seconds of signal; computing time comes on top."""
        return self.delays.total

    @property
    def turns(self) -> list[Turn]:
        """Who spoke when, after `flush`; nothing if the voices do not follow their speakers."""
        return getattr(self._stream, "turns", [])

    def push(self, block: Wave) -> Wave:
        """Take the next samples and return the voices available so far; see `Stream.push`."""
        samples = to_mono(np.asarray(block.detach().cpu() if isinstance(block, Tensor) else block))
        self._mixture.push(samples)
        voices = self._widened(self._stream.push(samples), last=False)
        if isinstance(block, Tensor):
            return torch.from_numpy(voices).to(block.device)
        return voices

    def flush(self) -> np.ndarray:
        """End the recording and return the remaining voices, [S, m]."""
        self._mixture.push(np.zeros(0, np.float32))
        voices = self._widened(self._stream.flush(), last=True)
        return np.concatenate([voices, self._bands.flush()], axis=1)

    def _widened(self, voices: np.ndarray, *, last: bool) -> np.ndarray:
        """Pair voices with the mixture; add the high band to all complete cells."""
        begin = self._mixture.position
        stop = begin + voices.shape[1]
        self._pairs.push(np.concatenate([voices, self._mixture.between(begin, stop)[None]]))
        self._mixture.advance(stop, 0)
        begin, stop = self._pairs.position, self._pairs.stop
        if not last:
            stop -= (stop - begin) % self._cell
        pairs = self._pairs.between(begin, stop)
        self._pairs.advance(stop, 0)
        gains = np.ones(pairs.shape[1], np.float32)
        for start in range(0, len(gains), self._cell):
            cell = pairs[:, start : start + self._cell]
            self._meter.add(cell[:-1], cell[-1])
            gains[start : start + self._cell] = self._meter.common_gain
        return self._bands.push(pairs[:-1], pairs[-1], gains)


Opened = TypeVar("Opened", bound=_VoiceStream)


def widen(
    stream: Opened, n_voices: int, network_rate: int | None, *, gated: bool
) -> Opened | FullBandStream:
    """Give the voices of a stream the band of the recording, unless `network_rate` is None."""
    if network_rate is None:
        return stream
    return FullBandStream(stream, n_voices, network_rate, gated=gated)
