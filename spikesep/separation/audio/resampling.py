"""Sample-rate conversion with the filter of WSJ0-2mix, of whole signals and of streams."""

import math
from functools import lru_cache

import numpy as np

FILTER_HALF_WIDTH = 10
"""Half the length of the filter of `resample`, in samples at the lower of the two rates."""
MAX_CACHED_FACTOR = 2**15
"""Largest rate factor for which several filters are cached; larger ones have many long filters."""
LONGEST_CELL = 2048
"""Input samples of a cell up to which `Resampler` begins one anew for every block."""
DESIGN_BLOCK = 2**20
"""Taps that are designed at once."""


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Change the sample rate of [..., samples], float32 or float64.

    The length becomes ceil(samples * to_rate / from_rate). The filter is the default of MATLAB,
    with which WSJ0-2mix is made, and of SciPy: for the ratio p / q in lowest terms, a linear-phase
    filter of 2 * 10 * max(p, q) + 1 taps, a sinc with a Kaiser window (beta 5), compensated for its
    delay.
    """
    if from_rate == to_rate:
        return samples
    from scipy.signal import resample_poly  # slow to import

    common = math.gcd(from_rate, to_rate)
    window = _lowpass(max(from_rate, to_rate) // common, samples.dtype)
    return resample_poly(samples, to_rate // common, from_rate // common, axis=-1, window=window)


def _lowpass(factor: int, dtype: np.dtype) -> np.ndarray:
    """Return the 20 * factor + 1 taps that `resample_poly` would design, from a cache.

    Filters of rates without a common factor take up to 60 MB, so only the last of them is kept.
    """
    return (_cached_lowpass if factor <= MAX_CACHED_FACTOR else _last_lowpass)(factor, dtype)


def _design_lowpass(factor: int, dtype: np.dtype) -> np.ndarray:
    """Design a low-pass filter, bit-identical to SciPy's but in less memory.

    The reference is `scipy.signal.firwin(20 * factor + 1, 1 / factor, window=("kaiser", 5.0))`.
    """
    from scipy.special import i0

    half, beta = FILTER_HALF_WIDTH * factor, 5.0
    blocks = []
    for start in range(0, 2 * half + 1, DESIGN_BLOCK):
        time = np.arange(start, min(start + DESIGN_BLOCK, 2 * half + 1)) - float(half)
        window = i0(beta * np.sqrt(1 - (time / half) ** 2.0)) / i0(beta)
        blocks.append(1 / factor * np.sinc(1 / factor * time) * window)
    gain = sum(block.sum() for block in blocks)
    return np.concatenate([(block / gain).astype(dtype) for block in blocks])


_cached_lowpass = lru_cache(maxsize=64)(_design_lowpass)  # all rates and speeds of dynamic mixing
_last_lowpass = lru_cache(maxsize=1)(_design_lowpass)


class Resampler:
    """Block-wise `resample`: the concatenated blocks equal `resample` of the whole to the bit.

    Args:
        from_rate: input sample rate in Hz.
        to_rate: output sample rate in Hz.
    """

    def __init__(self, from_rate: int, to_rate: int):
        common = math.gcd(from_rate, to_rate)
        self.rates = from_rate, to_rate
        self._up, self._down = to_rate // common, from_rate // common
        # Taps on either side of an output sample, on the grid of both rates.
        self._reach = 0 if from_rate == to_rate else FILTER_HALF_WIDTH * max(self._up, self._down)
        # Rates without a common factor have long cells, which are returned as a whole.
        self._grain = 1 if self._down <= LONGEST_CELL else self._up
        self._input = Window()
        self._n_returned = 0

    @property
    def latency(self) -> float:
        """Largest delay of a sample in seconds."""
        waiting = self._grain * self._down // self._up if self._grain > 1 else 1
        return (self._reach // self._up + waiting) / self.rates[0] if self._reach else 0.0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples [..., n]; return the samples [..., m] that are final by now."""
        self._input.push(samples)
        # Output m is final once input floor((m * down + reach) / up) has arrived.
        n_final = -((self._reach - self._input.stop * self._up) // self._down)
        return self._until(n_final // self._grain * self._grain)

    def flush(self) -> np.ndarray:
        """End the signal and return the remaining samples."""
        return self._until(-(-self._input.stop * self._up // self._down))

    def _until(self, stop: int) -> np.ndarray:
        """Return the output samples before index `stop`.

        Resampling begins at a cell of `down` input samples, which become `up` output samples: each
        cell has the same filter phases as the first.
        """
        window, begin = self._input, self._n_returned
        if stop <= begin:
            return window.between(window.stop, window.stop)
        if not self._reach:
            found = window.between(begin, stop)
        else:
            cell = self._first_cell(begin)
            resampled = resample(window.between(cell * self._down, window.stop), *self.rates)
            found = resampled[..., begin - cell * self._up : stop - cell * self._up]
        self._n_returned = stop
        needed = self._first_cell(stop) * self._down if self._reach else stop
        window.advance(stop, stop - needed)
        return found

    def _first_cell(self, output: int) -> int:
        """Return the cell from which on an output sample can be computed."""
        return max(0, (output * self._down - self._reach) // (self._up * self._down))


class Window:
    """The part of a signal [..., n] that is still needed, addressed by sample index of the signal.

    Attributes:
        position: samples before this index are processed.
        stop: number of samples received.
    """

    def __init__(self):
        self.position = self.stop = self._start = 0
        self._pieces: list[np.ndarray] = []

    def push(self, samples: np.ndarray) -> None:
        """Append the next samples."""
        self._pieces.append(samples)
        self.stop += samples.shape[-1]

    def between(self, start: int, stop: int) -> np.ndarray:
        """Return the samples start..stop-1."""
        if len(self._pieces) > 1:
            self._pieces = [np.concatenate(self._pieces, axis=-1)]
        return self._pieces[0][..., start - self._start : stop - self._start]

    def advance(self, position: int, context: int) -> None:
        """Mark samples before `position` as processed; keep only `context` of them."""
        self.position = position
        start = max(self._start, position - context)
        self._pieces = [self.between(start, self.stop).copy()]
        self._start = start
