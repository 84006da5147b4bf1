"""How loud a voice is while it speaks: the active speech level of ITU-T P.56, method B. Every mixture that is made by
level is made by this one.
"""

from functools import lru_cache

import numpy as np
from scipy.ndimage import maximum_filter1d
from scipy.signal import cheby2, lfilter, sosfilt

HANGOVER_SECONDS = 0.2
ENVELOPE_SECONDS = 0.03
TAIL_SECONDS = 0.35
"""Silence appended to the signal, so that its last word fades within it."""
MARGIN_DB = 15.9
N_BINS = 20
STOP_DB = 50.0
HIGH_PASS_HZ, LOW_PASS_HZ = 200.0, 5500.0
EDGE_DB = 0.25
LOW_PASS_FROM_RATE = 2.2 * LOW_PASS_HZ
"""Hz; signals below this rate have hardly anything above the low-pass, and do without it."""


def active_level(samples: np.ndarray, sample_rate: int) -> float:
    """Active speech level (ITU-T P.56, method B) of [samples] at `sample_rate` Hz, in dB of a mean square of 1.

    The signal, limited to the telephone band, is active where its envelope was above a threshold within the last 0.2 s;
    the level is its energy over the active time, at the threshold 15.9 dB below that level. -inf for silence, or for
    fewer samples than an envelope needs.
    """
    signal = np.concatenate(
        [np.asarray(samples, np.float64), np.zeros(int(np.ceil(TAIL_SECONDS * sample_rate)))]
    )
    for sections in _band(sample_rate):
        signal = sosfilt(sections, signal)
    energy = np.square(signal).sum()
    if len(samples) == 0 or energy < np.finfo(np.float64).tiny:
        return -np.inf
    pole = np.exp(-1 / (ENVELOPE_SECONDS * sample_rate))
    envelope = lfilter([(1 - pole) ** 2], [1, -2 * pole, pole**2], np.abs(signal))
    power = np.maximum(np.square(envelope), np.finfo(np.float64).tiny)  # the exponent of zero is 0
    octave = np.frexp(power)[1]  # 2**(octave - 1) <= power < 2**octave
    window = int(np.ceil(HANGOVER_SECONDS * sample_rate)) + 1
    octave = maximum_filter1d(
        octave, window, origin=(window - 1) // 2, mode="constant", cval=np.iinfo(np.int32).min
    )
    below = np.minimum(octave.max() - octave.astype(np.int64), N_BINS)
    active = np.cumsum(np.bincount(below, minlength=N_BINS)[:N_BINS])
    levels = 10 * np.log10(energy / active)
    floors = 10 * np.log10(2.0) * (octave.max() - 1 - np.arange(N_BINS))
    return _crossing(levels, levels - floors - MARGIN_DB)


def _crossing(levels: np.ndarray, excess: np.ndarray) -> float:
    """The level where the excess over the margin passes zero, from the lowest threshold (the last bin) upwards.

    In the topmost bins of a long signal few samples are active, and the excess may be positive there once more.
    """
    crossings = np.flatnonzero((excess[:-1] < 0) & (excess[1:] >= 0))
    if not len(crossings):
        return float(levels[0] if excess[-1] >= 0 else levels[-1])
    k = crossings[-1]
    share = excess[k] / (excess[k] - excess[k + 1])
    return float(levels[k] + share * (levels[k + 1] - levels[k]))


@lru_cache
def _band(sample_rate: int) -> list[np.ndarray]:
    """The filters of the telephone band as second-order sections: Chebyshev type II of order 5, -0.25 dB at their
    edges.

    `cheby2` wants the edge of the stop band. In the analog prototype it lies where the Chebyshev polynomial T5 of the
    edges' ratio makes the gain -0.25 dB; the bilinear transform is prewarped at the edge of the pass band.
    """
    ratio = np.cosh(
        np.arccosh(np.sqrt((10 ** (STOP_DB / 10) - 1) / (10 ** (EDGE_DB / 10) - 1))) / 5
    )

    def stop_edge(hz: float, ratio: float) -> float:
        return np.arctan(np.tan(np.pi * hz / sample_rate) * ratio) * sample_rate / np.pi

    filters = [
        cheby2(
            5, STOP_DB, stop_edge(HIGH_PASS_HZ, 1 / ratio), "highpass", fs=sample_rate, output="sos"
        )
    ]
    if sample_rate >= LOW_PASS_FROM_RATE:
        filters.append(
            cheby2(
                5, STOP_DB, stop_edge(LOW_PASS_HZ, ratio), "lowpass", fs=sample_rate, output="sos"
            )
        )
    return filters
