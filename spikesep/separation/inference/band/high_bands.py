"""The band above the network's, shared among the voices by what the network decided below it.

    high band = mixture - mixture through the network's sample rate and back
    odds of a voice = presence * product of the powers of its low, middle and upper band ^ weights
    share of a voice = its odds / those of all voices
    voice + share * high band -> full-band voice

The high band is exactly what resampling takes away, and the shares of a sample add up to one, so
the high bands of the voices add up to that of the mixture. The weights make the odds depend on how
a spectrum is tilted rather than on its level: a fricative is soft below 4 kHz and loud above, a
vowel the reverse.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from spikesep.separation.audio.resampling import Resampler, Window

Band = Literal["full", "network"]
CELL_SECONDS = 0.01
"""Length of the cells whose power is measured; shares are those of the two around a border."""
EDGES = (0.0125, 0.125, 0.375, 0.475)
"""Edges of the low, middle and upper band, relative to the network's sample rate."""
WEIGHTS = (-0.20, -0.21, 0.51)
"""Exponents of the powers of these bands: those whose shares leave the least squared error above
4 kHz, of the shipped network's voices in 100 mixtures of LibriSpeech's training voices."""
PRESENCE = 0.03
"""Power, relative to the loudest voice's of late, at which the presence of a voice is one half."""
HOLD_SECONDS = 0.3
"""Time in which a past power loses its weight in the presence, by a factor e."""
FLOOR = 1e-6
"""Least power of a band, relative to the loudest voice's of late."""
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
            there, too; otherwise voices get equal shares where all are silent.
        weights: exponents of the powers of the bands between `EDGES`.

    Attributes:
        latency: largest delay of a sample in seconds.
    """

    def __init__(
        self,
        n_voices: int,
        sample_rate: int,
        network_rate: int,
        *,
        gated: bool = False,
        weights: Sequence[float] = WEIGHTS,
    ):
        from scipy.signal import butter  # slow to import

        edges = [(low * network_rate, high * network_rate) for low, high in pairwise(EDGES)]
        self._filters = [
            np.asarray(butter(FILTER_ORDER, band, "bandpass", fs=sample_rate, output="sos"))
            for band in edges
        ]
        self._states = [np.zeros((len(sections), n_voices, 2)) for sections in self._filters]
        self._n, self._gated, self._weights = n_voices, gated, weights
        self._length = max(1, round(CELL_SECONDS * sample_rate))
        self._high = _HighPass(sample_rate, network_rate)
        self._voices = Window()  # [2 S + 1, n]: voices, their gains, mixture
        # Powers [1 + bands, S, cells] of the last cell that is done and those after it, and squares
        # of samples of the cell that is not complete yet: of the voices, and of their bands.
        self._power = np.zeros((len(EDGES), n_voices, 0))
        self._squares = np.zeros((len(EDGES), n_voices, 0))
        self._held = np.zeros(n_voices)
        self._shares = np.zeros((n_voices, 0))  # at the border where the next cell begins
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
        n_cells = self._power.shape[2] - 2
        return self._release(min(n_cells, self._high.n_ready // self._length))

    def flush(self) -> np.ndarray:
        """End the recording and return the remaining samples."""
        rest = self._voices.stop - self._voices.position
        if not rest:
            return np.zeros((self._n, 0), np.float32)
        self._high.flush()
        missing = -self._squares.shape[2] % self._length
        self._measure(np.zeros((self._n, missing)))
        self._power = np.pad(self._power, ((0, 0), (0, 0), (0, 1)), mode="edge")
        return self._release(-(-rest // self._length))

    def _measure(self, voices: np.ndarray) -> None:
        """Measure the power of the next samples, at the level of the recording, in cells."""
        from scipy.signal import sosfilt

        if not voices.shape[1]:
            return
        signals = [voices]
        for k, sections in enumerate(self._filters):
            filtered, self._states[k] = sosfilt(sections, voices, axis=-1, zi=self._states[k])
            signals.append(filtered)
        squares = np.concatenate([self._squares, np.square(signals)], axis=2)
        n_cells = squares.shape[2] // self._length
        cells, self._squares = np.split(squares, [n_cells * self._length], axis=2)
        power = cells.reshape(len(EDGES), self._n, n_cells, self._length).mean(3)
        if not self._power.shape[2]:
            power = np.concatenate([power[:, :, :1], power], axis=2)
        self._power = np.concatenate([self._power, power], axis=2)

    def _release(self, n_cells: int) -> np.ndarray:
        """Return the voices of the next cells with their shares of the high band."""
        if n_cells <= 0:
            return np.zeros((self._n, 0), np.float32)
        shares = self._shares_of(n_cells)
        self._shares, self._power = shares[:, -1:], self._power[:, :, n_cells:]
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

    def _shares_of(self, n_cells: int) -> np.ndarray:
        """Return the shares of the voices at the borders of the next cells, [S, n_cells + 1]."""
        first = self._shares.shape[1]
        before, after = self._power[:, :, first : n_cells + 1], self._power[:, :, first + 1 :]
        after = after[:, :, : before.shape[2]]
        total, *bands = (before + after) / 2
        held = self._hold(total)
        loudest = held.max(0)
        odds = held / (held + PRESENCE * loudest + MIN_POWER) * (total > MIN_POWER)
        for band, weight in zip(bands, self._weights, strict=True):
            odds = odds * (band + FLOOR * loudest + MIN_POWER) ** weight
        everyone = odds.sum(0)
        silent = np.full_like(odds, 0.0 if self._gated else 1 / self._n)
        shares = np.divide(odds, everyone, out=silent, where=everyone > 0)
        return np.concatenate([self._shares, shares], axis=1)

    def _hold(self, power: np.ndarray) -> np.ndarray:
        """Return the largest power of late, at each border, of the powers there, [S, K]."""
        decay, held = np.exp(-CELL_SECONDS / HOLD_SECONDS), np.empty_like(power)
        for k, now in enumerate(power.T):
            self._held = held[:, k] = np.maximum(now, self._held * decay)
        return held


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
