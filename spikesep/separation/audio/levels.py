"""Active speech level (ITU-T P.56, method B): how loud a voice is while it speaks."""

from functools import lru_cache

import numpy as np
from scipy.ndimage import maximum_filter1d
from scipy.signal import cheby2, lfilter, sosfilt

HANGOVER_SECONDS = 0.2
ENVELOPE_SECONDS = 0.03
TAIL_SECONDS = 0.35
"""Silence appended to the signal, in which the envelope of its last word decays."""
MARGIN_DB = 15.9
N_BINS = 20
STOP_DB = 50.0
HIGH_PASS_HZ, LOW_PASS_HZ = 200.0, 5500.0
EDGE_DB = 0.25
LOW_PASS_FROM_RATE = 2.2 * LOW_PASS_HZ
"""Sample rate in Hz from which the low-pass is applied; lower rates hold little above its edge."""


def active_level(samples: np.ndarray, sample_rate: int) -> float:
    """Measure the active speech level of samples [T] in dB relative to a mean square of 1.

    The signal, limited to the telephone band, is active where its envelope exceeded a threshold
    within the last 0.2 s. The level is the signal's energy over its active time, for the threshold
    that lies 15.9 dB below that level.

    Returns:
        The level, or -inf for silence and for signals shorter than the envelope needs.
    """
    signal = np.concatenate(
        [np.asarray(samples, np.float64), np.zeros(int(np.ceil(TAIL_SECONDS * sample_rate)))]
    )
    for sections in _band_filters(sample_rate):
        signal = sosfilt(sections, signal)
    energy = np.square(signal).sum()
    if len(samples) == 0 or energy < np.finfo(np.float64).tiny:
        return -np.inf
    pole = np.exp(-1 / (ENVELOPE_SECONDS * sample_rate))
    envelope = lfilter([(1 - pole) ** 2], [1, -2 * pole, pole**2], np.abs(signal))
    power = np.maximum(np.square(envelope), np.finfo(np.float64).tiny)  # the exponent of 0 is 0
    octave = np.frexp(power)[1]  # 2**(octave - 1) <= power < 2**octave
    window = int(np.ceil(HANGOVER_SECONDS * sample_rate)) + 1
    octave = maximum_filter1d(
        octave, window, origin=(window - 1) // 2, mode="constant", cval=np.iinfo(np.int32).min
    )
    below = np.minimum(octave.max() - octave.astype(np.int64), N_BINS)
    active = np.cumsum(np.bincount(below, minlength=N_BINS)[:N_BINS])
    levels = 10 * np.log10(energy / active)
    thresholds = 10 * np.log10(2.0) * (octave.max() - 1 - np.arange(N_BINS))
    return _crossing(levels, levels - thresholds - MARGIN_DB)


def _crossing(levels: np.ndarray, excess: np.ndarray) -> float:
    """Interpolate the level at which the excess over the margin crosses zero.

    The search starts at the lowest threshold, the last bin. In the first bins of a long signal few
    samples are active, and the excess may become positive again.
    """
    crossings = np.flatnonzero((excess[:-1] < 0) & (excess[1:] >= 0))
    if not len(crossings):
        return float(levels[0] if excess[-1] >= 0 else levels[-1])
    k = crossings[-1]
    share = excess[k] / (excess[k] - excess[k + 1])
    return float(levels[k] + share * (levels[k + 1] - levels[k]))


@lru_cache
def _band_filters(sample_rate: int) -> list[np.ndarray]:
    """Design the filters of the telephone band, as second-order sections.

    They are of Chebyshev type II, order 5, with -0.25 dB at their pass-band edges. `cheby2` takes
    the edge of the stop band. In the analog prototype it lies where the Chebyshev polynomial T5 of
    the ratio of the edges makes the gain -0.25 dB. The bilinear transform is prewarped at the
    pass-band edge.
    """
    ratio = np.cosh(
        np.arccosh(np.sqrt((10 ** (STOP_DB / 10) - 1) / (10 ** (EDGE_DB / 10) - 1))) / 5
    )

    def design(kind: str, pass_hz: float, ratio: float) -> np.ndarray:
        stop_hz = np.arctan(np.tan(np.pi * pass_hz / sample_rate) * ratio) * sample_rate / np.pi
        return np.asarray(cheby2(5, STOP_DB, stop_hz, kind, fs=sample_rate, output="sos"))

    filters = [design("highpass", HIGH_PASS_HZ, 1 / ratio)]
    if sample_rate >= LOW_PASS_FROM_RATE:
        filters.append(design("lowpass", LOW_PASS_HZ, ratio))
    return filters
