"""Level of the separated voices: statistics gathered block by block, and the gains they imply."""

from itertools import combinations
from typing import Literal

import numpy as np

Level = Literal["match-mix", "peak", "none"]
PEAK = 0.9
"""Peak of each voice with the level `peak`, relative to full scale."""


class LevelMeter:
    """Accumulates statistics of voices and mixtures from which `gains` derives output gains.

    Args:
        n_speakers: voices per mixture.
        n_tracks: mixtures, that is, channels of one recording that are separated independently.
    """

    def __init__(self, n_speakers: int, n_tracks: int = 1):
        self.gram = np.zeros((n_tracks, n_speakers, n_speakers))
        self.target = np.zeros((n_tracks, n_speakers))
        self.peaks = np.zeros(n_tracks * n_speakers)

    def add(self, estimates: np.ndarray, mixtures: np.ndarray) -> None:
        """Add a block: estimates [n_tracks * n_speakers, n] and mixtures [n_tracks, n] (or [n])."""
        voices = estimates.astype(np.float64).reshape(*self.target.shape, -1)
        mixtures = mixtures.astype(np.float64).reshape(len(voices), -1)
        self.gram += voices @ voices.transpose(0, 2, 1)
        self.target += (voices @ mixtures[:, :, None])[:, :, 0]
        self.peaks = np.maximum(self.peaks, np.abs(estimates).max(1, initial=0.0))

    @property
    def common_gain(self) -> float:
        """Gain with which the sum of all voices is closest to the mixtures; 1 if it is silent."""
        gram, target = float(self.gram.sum()), float(self.target.sum())
        return target / gram if gram > 0 and target > 0 else 1.0

    def gains(self, level: Level) -> tuple[np.ndarray, float]:
        """Return gains, float64 [n_tracks * n_speakers], and the common factor included in them.

        The factor keeps all voices within full scale.

        Raises:
            ValueError: the level is unknown.
        """
        if level == "match-mix":
            tracks = zip(self.gram, self.target, strict=True)
            gains = np.concatenate([_matching_gains(gram, target) for gram, target in tracks])
        elif level == "peak":
            gains = np.divide(PEAK, self.peaks, out=np.zeros_like(self.peaks), where=self.peaks > 0)
        elif level == "none":
            gains = np.ones_like(self.peaks)
        else:
            raise ValueError(f"level must be 'match-mix', 'peak' or 'none', not {level!r}")
        scale = 1.0 / max(1.0, float((gains * self.peaks).max()))
        return gains * scale, scale


def _matching_gains(gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solve non-negative least squares: the best non-negative solution on any subset of voices."""
    n = len(gram)
    best, gains = 0.0, np.zeros(n)
    subsets = (combinations(range(n), size) for size in range(n, 0, -1))
    for subset in (list(subset) for of_one_size in subsets for subset in of_one_size):
        part = np.linalg.lstsq(gram[np.ix_(subset, subset)], target[subset], rcond=1e-10)[0]
        explained = float(part @ target[subset])  # energy of the mixture
        if (part >= 0).all() and explained > best * (1 + 1e-9):
            best, gains = explained, np.zeros(n)
            gains[subset] = part
    return gains


def set_level(estimates: np.ndarray, mixture: np.ndarray, level: Level) -> tuple[np.ndarray, float]:
    """Scale the voices of one mixture to an output level.

    The network is trained with a scale-invariant loss, so the level of its estimates is arbitrary.

    Args:
        estimates: [n_speakers, samples].
        mixture: [samples].
        level: `match-mix` uses the non-negative gains with which the voices add up to the mixture
            with the least squared error; `peak` scales each voice to a peak of 0.9; `none` keeps
            the level of the network.

    Returns:
        The scaled voices, float32, and the common factor by which they were then attenuated to
        stay within full scale.
    """
    meter = LevelMeter(len(estimates))
    meter.add(estimates, mixture)
    gains, scale = meter.gains(level)
    return apply_gains(estimates, gains), scale


def apply_gains(estimates: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Multiply estimates [n_voices, n] by gains [n_voices] or [n_voices, n]; return float32.

    Rounding keeps values within ±1 if the exact products are.
    """
    return (estimates * gains.reshape(len(estimates), -1)).astype(np.float32)
