"""Polarity of a voice recording: whether its waveform is inverted.

The glottis closes faster than it opens, so the excitation of a voice has sharp peaks on one side of
zero. A microphone, amplifier or editor that inverts the waveform moves them to the other side.
"""

from pathlib import Path

import librosa
import numpy as np
from scipy.signal import lfilter

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import read_segment

FRAME_SECONDS = 0.032
ACTIVE_DB = 20.0
"""Frames that are quieter than the loudest frame by at least this much are ignored."""


def residual_skewness(samples: np.ndarray, sample_rate: int) -> float:
    """Return the skewness of the linear-prediction residual of samples [T], over loud frames.

    Its sign is the polarity (Drugman, "Residual excitation skewness for automatic speech polarity
    detection", IEEE Signal Processing Letters, 2013).

    Raises:
        ValueError: If the signal is shorter than a frame, or silent but for an offset.
    """
    length = round(FRAME_SECONDS * sample_rate)
    if len(samples) < length or not np.ptp(samples):
        raise ValueError("shorter than a frame, or silent")
    samples = np.asarray(samples, np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(samples, length)[:: length // 2]
    frames = frames - frames.mean(-1, keepdims=True)
    energy = np.square(frames).sum(-1)
    loud = frames[energy > energy.max() * 10 ** (-ACTIVE_DB / 10)]
    order = 2 + sample_rate // 1000
    coefficients = librosa.lpc(loud * np.hanning(length), order=order, axis=-1)
    residual = np.concatenate(
        [lfilter(a, 1.0, frame)[order:] for a, frame in zip(coefficients, loud, strict=True)]
    )
    residual -= residual.mean()
    return float(np.mean(residual**3) / np.mean(residual**2) ** 1.5)


def polarity(samples: np.ndarray, sample_rate: int) -> int:
    """Return the sign of `residual_skewness`, 1 or -1."""
    return 1 if residual_skewness(samples, sample_rate) >= 0 else -1


def recording_polarity(path: Path, seconds: float) -> int:
    """Return the polarity of a recording by its first `seconds`, or by all of it if these fail.

    Raises:
        SpikeSepError: If the recording cannot be read, is silent, or is shorter than a frame.
    """
    try:
        return polarity(*read_segment(path, lambda _, rate: (0, round(seconds * rate))))
    except ValueError:  # it begins with silence
        pass
    try:
        return polarity(*read_segment(path, lambda length, _: (0, length)))
    except ValueError as error:
        raise SpikeSepError(
            f"{path}: is {error}; remove it from the table of utterances"
        ) from error
