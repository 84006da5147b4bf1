"""Sample-rate conversion with the filter of WSJ0-2mix."""

import math
from functools import lru_cache

import numpy as np

FILTER_HALF_WIDTH = 10
"""Half the length of the filter of `resample`, in samples at the lower of the two rates."""
MAX_CACHED_FACTOR = 2**15
"""Largest rate factor for which several filters are cached; larger ones have many long filters."""
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
