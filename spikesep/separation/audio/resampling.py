"""Other sample rates, by the filter that made WSJ0-2mix."""

import math
from functools import lru_cache

import numpy as np

RESAMPLING_REACH = 10
"""Half the filter of `resample`, in samples at the lower of the two rates."""
COMMON_FACTOR, DESIGNED = 2**15, 2**20
"""Up to where the filters of ratios are few and small enough to keep; taps that are designed at once."""


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Change the sample rate of [..., samples], float32 or float64, to length ceil(samples * to / from).

    MATLAB's default, by which WSJ0-2mix is made: a linear-phase filter of 2 * 10 * max(p, q) + 1 taps at the ratio p
    / q, a sinc times a Kaiser window with beta 5, its delay taken away. SciPy's default is the same.
    """
    if from_rate == to_rate:
        return samples
    from scipy.signal import resample_poly  # slow to load

    common = math.gcd(from_rate, to_rate)
    window = _lowpass(max(from_rate, to_rate) // common, samples.dtype)
    return resample_poly(samples, to_rate // common, from_rate // common, axis=-1, window=window)


def _lowpass(factor: int, dtype: np.dtype) -> np.ndarray:
    """The filter that `resample_poly` would design, 20 * factor + 1 taps, designed once for all blocks of a file.

    Rates without a common factor have filters of up to 60 MB, of which one is kept.
    """
    return (_kept_lowpass if factor <= COMMON_FACTOR else _last_lowpass)(factor, dtype)


def _design_lowpass(factor: int, dtype: np.dtype) -> np.ndarray:
    """`scipy.signal.firwin(20 * factor + 1, 1 / factor, window=("kaiser", 5.0))` to the bit, in less memory."""
    from scipy.special import i0

    half, beta = RESAMPLING_REACH * factor, 5.0
    pieces = []
    for start in range(0, 2 * half + 1, DESIGNED):
        place = np.arange(start, min(start + DESIGNED, 2 * half + 1)) - float(half)
        window = i0(beta * np.sqrt(1 - (place / half) ** 2.0)) / i0(beta)
        pieces.append(1 / factor * np.sinc(1 / factor * place) * window)
    gain = sum(piece.sum() for piece in pieces)
    return np.concatenate([(piece / gain).astype(dtype) for piece in pieces])


_kept_lowpass = lru_cache(maxsize=64)(_design_lowpass)  # rates times speeds, in mixing on the fly
_last_lowpass = lru_cache(maxsize=1)(_design_lowpass)
