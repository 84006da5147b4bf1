"""Batches of crops, in which sources may be re-paired at new levels and inverted at random."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spikesep.separation.data.dataset import Crop, rms
from spikesep.separation.data.recording_channel import draw_polarity

MAX_GAIN_DB = 20.0
"""Limit of the gain, so that the noise of a nearly silent crop does not become a voice."""
MAX_TRIES = 20
"""Permutations that are tried to keep speakers apart."""


@dataclass(frozen=True)
class Collate:
    """Combines crops into mixtures [B, T] and sources [B, n_speakers, T].

    Neither option suits mixtures with a residual (`Mixture.has_residual`), which may be
    reverberation of their own sources.

    Attributes:
        remix: Re-pair the sources within the batch at new levels. Noise stays where it is.
        snr_db: Range of the new levels.
        random_polarity: Invert each source with probability 1/2.
    """

    remix: bool
    snr_db: tuple[float, float]
    random_polarity: bool = False

    @property
    def whole_batch(self) -> bool:
        """Whether each process that shares a batch needs all of it, to re-pair any examples."""
        return self.remix

    def __call__(self, crops: list[Crop]) -> tuple[Tensor, Tensor]:
        """Return mixtures and sources of a batch."""
        sources = np.stack([crop.sources for crop in crops])
        if self.remix:
            rng = np.random.default_rng(crops[0].seed)
            sources = remix(sources, [crop.speakers for crop in crops], self.snr_db, rng)
        if self.random_polarity:
            sources = sources * np.stack([_draw_signs(crop) for crop in crops])
        mixtures = sources.sum(1)
        for mixture, crop in zip(mixtures, crops, strict=True):
            if crop.noise is not None:
                mixture += crop.noise
        return torch.from_numpy(mixtures), torch.from_numpy(sources)


def _draw_signs(crop: Crop) -> np.ndarray:
    """Draw signs [n_speakers, 1] that follow from the crop's seed."""
    rng = np.random.default_rng((*crop.seed, 1))
    return draw_polarity(rng, len(crop.sources))[:, None]


def remix(
    sources: np.ndarray,
    speakers: Sequence[tuple[str, ...]],
    snr_db: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Re-pair the sources of a batch at new levels, never a speaker with themselves.

    Args:
        sources: [B, n_speakers, T].
        speakers: Speakers of each example.
        snr_db: Range of the level difference, which is uniform; which source is louder is random.
        rng: Random generator.

    Returns:
        [B, n_speakers, T]. If no re-pairing is found that keeps speakers apart, the input.
    """
    n_batch, n_speakers, _ = sources.shape
    names = np.array(speakers)
    order = np.tile(np.arange(n_batch), (n_speakers, 1))
    for s in range(1, n_speakers):
        for _ in range(MAX_TRIES):
            order[s] = rng.permutation(n_batch)
            if all((names[order[s], s] != names[order[e], e]).all() for e in range(s)):
                break
        else:
            return sources
    paired = np.stack([sources[order[s], s] for s in range(n_speakers)], 1)
    # The sources lie half the level difference above and below the mean level of the batch.
    offset = (
        rng.uniform(*snr_db, (n_batch, 1))
        / 2
        * rng.choice([-1, 1], (n_batch, 1))
        * (-1.0) ** np.arange(n_speakers)
    )
    gain_db = _level(sources).mean() + offset - _level(paired)
    return (paired * 10 ** (np.minimum(gain_db, MAX_GAIN_DB) / 20)[..., None]).astype(np.float32)


def _level(sources: np.ndarray) -> np.ndarray:
    """Return levels in dB relative to full scale."""
    return 20 * np.log10(rms(sources) + 1e-8)
