"""The band above the network's, shared among the voices by what the network decided below it.

    high band = mixture - mixture through the network's sample rate and back
    share of a voice = its power in the upper octave of the network's band / that of all voices
    voice + share * high band -> full-band voice

The high band is exactly what resampling takes away, and the shares of a sample add up to one, so
the high bands of the voices add up to that of the mixture.
"""

from typing import Literal

import numpy as np

from spikesep.separation.inference.streaming import Resampler, Window

Band = Literal["full", "network"]
CELL_SECONDS = 0.01
"""Length of the cells whose power is measured; shares are those of the two around a border."""
UPPER_BAND = (0.25, 0.45)
"""Part of the network's band whose power decides, relative to its sample rate: the upper octave
without the transition of the resampling filter."""
FILTER_ORDER = 4
MIN_POWER = 1e-24
"""Power below which a voice is taken for digital silence."""


class HighBands:
    """Adds to the voices of a recording their shares of its high band, block by block.

    The samples depend neither on the sizes of the blocks nor on later blocks than `latency`.

    Args:
        n_voices: voices of the recording, S.
        sample_rate: sample rate of the recording in Hz.
        network_rate: the lower sample rate of the separator in Hz.
        gated: whether the voices are silent where nobody speaks. Their high bands are then silent
            there, too; otherwise silent voices get equal shares.

    Attributes:
        latency: largest delay of a sample in seconds.
    """

    def __init__(self, n_voices: int, sample_rate: int, network_rate: int, *, gated: bool = False):
        from scipy.signal import butter  # slow to import

        edges = [edge * network_rate for edge in UPPER_BAND]
        self._filter = butter(FILTER_ORDER, edges, "bandpass", fs=sample_rate, output="sos")
        self._state = np.zeros((len(self._filter), n_voices, 2))
        self._n, self._gated = n_voices, gated
        self._length = max(1, round(CELL_SECONDS * sample_rate))
        self._high = _HighPass(sample_rate, network_rate)
        self._voices = Window()  # [2 S + 1, n]: voices, their gains, mixture
        self._filtered = np.zeros((n_voices, 0))  # of cells that are not complete yet
        self._power = np.zeros((n_voices, 0))  # of the last cell that is done and those after it
        cell = self._length / sample_rate
        self.latency = cell + max(cell, self._high.latency)

    def push(
        self, voices: np.ndarray, mixture: np.ndarray, gains: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """Take further samples [S, n] of the voices and [n] of the mixture.

        Args:
            voices: the voices, without a high band.
            mixture: the same samples of the recording.
            gains: factors that bring the voices to the level of the recording, [S, n] or anything
                that broadcasts to it. The high bands are divided by them.

        Returns:
            Full-band voices [S, m], float32, that follow those returned before; m may be 0.
        """
        gains = np.broadcast_to(np.asarray(gains, np.float32), voices.shape)
        self._voices.push(np.concatenate([voices, gains, mixture[None]]).astype(np.float32))
        self._high.push(mixture.astype(np.float32))
        self._measure(voices * gains)
        n_cells = self._power.shape[1] - 2
        return self._release(min(n_cells, self._high.n_ready // self._length))

    def flush(self) -> np.ndarray:
        """End the recording and return the remaining samples."""
        rest = self._voices.stop - self._voices.position
        if not rest:
            return np.zeros((self._n, 0), np.float32)
        self._high.flush()
        missing = -self._filtered.shape[1] % self._length
        self._measure(np.zeros((self._n, missing)))
        self._power = np.pad(self._power, ((0, 0), (0, 1)), mode="edge")
        return self._release(-(-rest // self._length))

    def _measure(self, voices: np.ndarray) -> None:
        """Measure the power of the next samples, at the level of the recording, in cells."""
        from scipy.signal import sosfilt

        if not voices.shape[1]:
            return
        filtered, self._state = sosfilt(self._filter, voices, axis=-1, zi=self._state)
        filtered = np.concatenate([self._filtered, filtered], axis=1)
        n_cells = filtered.shape[1] // self._length
        cells, self._filtered = np.split(filtered, [n_cells * self._length], axis=1)
        power = np.square(cells).reshape(self._n, n_cells, self._length).mean(2)
        if not self._power.shape[1]:
            power = np.concatenate([power[:, :1], power], axis=1)
        self._power = np.concatenate([self._power, power], axis=1)

    def _release(self, n_cells: int) -> np.ndarray:
        """Return the voices of the next cells with their shares of the high band."""
        if n_cells <= 0:
            return np.zeros((self._n, 0), np.float32)
        shares = self._shares(n_cells)
        self._power = self._power[:, n_cells:]
        ramp = np.arange(self._length) / self._length
        shares = shares[:, :-1, None] + np.diff(shares)[:, :, None] * ramp
        window, begin = self._voices, self._voices.position
        stop = min(begin + n_cells * self._length, window.stop)
        samples = window.between(begin, stop)
        window.advance(stop, 0)
        voices, gains = samples[: self._n], samples[self._n : -1]
        high = shares.reshape(self._n, -1)[:, : stop - begin] * self._high.take(stop - begin)
        found = np.divide(high, gains, out=np.zeros_like(high), where=gains > 0)
        return (voices + found).astype(np.float32)

    def _shares(self, n_cells: int) -> np.ndarray:
        """Return the shares of the voices at the borders of the next cells, [S, n_cells + 1]."""
        power = (self._power[:, : n_cells + 1] + self._power[:, 1 : n_cells + 2]) / 2
        if self._gated:
            total = power.sum(0)
            return np.divide(power, total, out=np.zeros_like(power), where=total > MIN_POWER)
        power = power + MIN_POWER
        return power / power.sum(0)


class _HighPass:
    """What a signal loses on the way through a lower sample rate and back, block by block."""

    def __init__(self, sample_rate: int, lower_rate: int):
        self._down, self._up = (
            Resampler(sample_rate, lower_rate),
            Resampler(lower_rate, sample_rate),
        )
        self._input, self._low = Window(), Window()
        self.latency = self._down.latency + self._up.latency

    @property
    def n_ready(self) -> int:
        """Samples that can be taken."""
        return min(self._low.stop, self._input.stop) - self._input.position

    def push(self, samples: np.ndarray) -> None:
        """Take the next samples [n]."""
        self._input.push(samples)
        self._low.push(self._up.push(self._down.push(samples)))

    def flush(self) -> None:
        """End the signal; all samples can be taken then."""
        self._low.push(self._up.push(self._down.flush()))
        self._low.push(self._up.flush())

    def take(self, n: int) -> np.ndarray:
        """Return the next samples of the high band, [n]."""
        begin, stop = self._input.position, self._input.position + n
        high = self._input.between(begin, stop) - self._low.between(begin, stop)
        self._input.advance(stop, 0)
        self._low.advance(stop, 0)
        return high
