"""Level and band of voices that are separated live, from what has been heard so far."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spikesep.separation.inference.band.high_bands import HighBands
from spikesep.separation.inference.in_memory import Model
from spikesep.separation.inference.output_level import Level, LevelMeter, apply_gains
from spikesep.separation.inference.streaming import Stream
from spikesep.separation.tracks.tracker import TrackStream


class LiveLeveler:
    """Levels the voices of a recording and gives them their high bands while it goes on.

    Args:
        model: the separator.
        streams: streams of the recording, whose voices have the network's band.
        level: output level.

    Attributes:
        delays: what the delay of a voice consists of, with that of the streams.
    """

    def __init__(self, model: Model, streams: Sequence[Stream | TrackStream], level: Level):
        rate, network_rate = streams[0].sample_rate, model.crossed_rate(streams[0].sample_rate)
        self._level: Level = level
        self._meter = LevelMeter(model.n_speakers, len(streams))
        self._previous: np.ndarray | None = None
        self._bands = []
        self._scale, self._peak = 1.0, 1.0  # largest magnitude so far, at least full scale
        self.delays = streams[0].delays
        if network_rate is not None:
            self._bands = [
                HighBands(
                    model.n_speakers, rate, network_rate, gated=isinstance(stream, TrackStream)
                )
                for stream in streams
            ]
            self.delays = replace(self.delays, band=self._bands[0].latency)

    @property
    def scale(self) -> float:
        """Common factor by which the latest voices were attenuated to stay within full scale."""
        return self._scale / self._peak

    def push(self, estimates: np.ndarray, mixtures: np.ndarray) -> np.ndarray:
        """Take estimates [n_voices, n] and mixtures [n_signals, n]; return voices [n_voices, m]."""
        self._meter.add(estimates, mixtures)
        gains, self._scale = self._meter.gains(self._level)
        voices = apply_gains(estimates, _ramp(self._previous, gains, mixtures.shape[1]))
        if np.abs(voices).max() > 1:
            voices = apply_gains(estimates, gains)
        self._previous = gains
        if not self._bands:
            return voices
        n = len(self._bands)
        to_recording = self._to_recording(gains)[:, None]
        rows = zip(
            self._bands, np.split(voices, n), mixtures, np.split(to_recording, n), strict=True
        )
        return self._limited([band.push(*of_signal) for band, *of_signal in rows])

    def flush(self) -> np.ndarray:
        """End the recording and return the rest of the voices, [n_voices, m]."""
        if not self._bands:
            return np.zeros((len(self._meter.peaks), 0), np.float32)
        return self._limited([band.flush() for band in self._bands])

    def _to_recording(self, gains: np.ndarray) -> np.ndarray:
        """Return the factors that bring voices with these gains to the level of the recording."""
        if self._level == "match-mix":
            return np.full(len(gains), 1 / self._scale)
        common = np.full(len(gains), self._meter.common_gain)
        return np.divide(common, gains, out=np.zeros(len(gains)), where=gains > 0)

    def _limited(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Join the voices of the signals, attenuated from where a high band exceeds full scale."""
        voices = np.concatenate(parts)
        self._peak = max(self._peak, float(np.abs(voices).max(initial=0.0)))
        if self._peak == 1:
            return voices
        return apply_gains(voices, np.full(len(voices), 1 / self._peak))


def _ramp(previous: np.ndarray | None, gains: np.ndarray, n: int) -> np.ndarray:
    """Interpolate from the previous gains [n_voices] to the current ones; return [n_voices, n]."""
    start = gains if previous is None else previous
    share = np.linspace(0, 1, n, endpoint=False)
    return start[:, None] * (1 - share) + gains[:, None] * share
