"""Crops of mixtures as training examples: random ones for pre-training, fixed ones otherwise.

If a mixture is the sum of its sources (see `mixture_files.find_residuals`), only the sources are
read. Otherwise noise and reverberation are read with every crop. Every random choice follows from
(seed, epoch, index), so that a run that was interrupted sees the same crops as an uninterrupted
one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spikesep.errors import SpikeSepError
from spikesep.separation.data.kaldi import Mixture
from spikesep.separation.data.mixture_files import count_samples, read_remainder, read_sources
from spikesep.training.sampling import EpochSampler

MIN_RMS = 1e-3
"""Root mean square below which a source counts as silent, so that its SI-SDR is meaningless."""


@dataclass(frozen=True)
class Crop:
    """Part of a mixture.

    Attributes:
        sources: float32 [n_speakers, T].
        speakers: Speakers of the sources; `table.ABSENT` for a silent one.
        seed: Seed of further random choices.
        noise: float32 [T], what the mixture holds besides its sources; None for nothing.
    """

    sources: np.ndarray
    speakers: tuple[str, ...]
    seed: tuple[int, ...]
    noise: np.ndarray | None = None


class EpochCrops(Dataset):
    """Base class of datasets whose crops are indexed by (epoch, index)."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        raise NotImplementedError


class RandomCrops(EpochCrops):
    """One random crop of each mixture per epoch.

    Args:
        mixtures: The mixtures of a data directory.
        sample_rate: Sample rate in Hz that the files must have.
        n_samples: Length of a crop; shorter mixtures are padded with zeros.
        seed: Seed of the crops.
    """

    MAX_TRIES = 4  # positions that are tried to find a crop in which every source is heard

    def __init__(self, mixtures: Sequence[Mixture], sample_rate: int, n_samples: int, seed: int):
        self.mixtures = mixtures
        self.sample_rate = sample_rate
        self.n_samples = n_samples
        self.seed = seed

    def __len__(self) -> int:
        return len(self.mixtures)

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        epoch, index = key
        seed = (self.seed, epoch, index)
        mixture = self.mixtures[index]
        rng = np.random.default_rng(seed)
        last_start = max(0, count_samples(mixture) - self.n_samples)
        start, sources = 0, np.zeros((0, self.n_samples), np.float32)
        for _ in range(self.MAX_TRIES):
            start = int(rng.integers(0, last_start + 1))
            sources = read_sources(mixture, self.sample_rate, start, self.n_samples)
            if rms(sources).min() > MIN_RMS:
                break
        noise = read_remainder(mixture, sources, self.sample_rate, start)
        return Crop(sources, mixture.speakers, seed, noise)


class CropList(Dataset):
    """Crops in memory, as (mixture [T], sources [n_speakers, T]).

    Args:
        crops: The crops.

    Raises:
        SpikeSepError: If there are none.
    """

    def __init__(self, crops: Iterable[Crop]):
        self.crops = [_tensors(crop.sources, crop.noise) for crop in crops]
        if not self.crops:
            raise SpikeSepError(
                "no crop in which all speakers are heard; check the mixtures (stage 1) and the "
                "segment length, or train with --train.loss snr if speakers may be silent"
            )

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sources, noise = self.crops[index]
        return sources.sum(0) if noise is None else sources.sum(0) + noise, sources


class FixedCrops(CropList):
    """Consecutive crops of every mixture in which all speakers are heard, or any of them.

    Args:
        mixtures: The mixtures of a data directory.
        sample_rate: Sample rate in Hz that the files must have.
        n_samples: Length of a crop; the last crop of a mixture is padded with zeros.
        at_most: Number of crops, drawn at random; None uses all.
        seed: Seed of the draw.
        silence: Whether speakers may be silent in a crop, as long as one is heard.
    """

    def __init__(
        self,
        mixtures: Sequence[Mixture],
        sample_rate: int,
        n_samples: int,
        at_most: int | None = None,
        seed: int = 0,
        *,
        silence: bool = False,
    ):
        positions = [
            (mixture, start)
            for mixture in mixtures
            for start in range(0, max(1, count_samples(mixture) - n_samples // 2), n_samples)
        ]
        order = np.random.default_rng(seed).permutation(len(positions))
        drawn = (positions[k] for k in order)
        crops = _audible_crops(drawn, sample_rate, n_samples, silence)
        super().__init__(islice(crops, at_most))


def _audible_crops(
    positions: Iterable[tuple[Mixture, int]], sample_rate: int, n_samples: int, silence: bool
) -> Iterator[Crop]:
    """Yield the crops at (mixture, start) in which every source is heard, or one if `silence`."""
    for mixture, start in positions:
        sources = read_sources(mixture, sample_rate, start, n_samples)
        levels = rms(sources)
        if (levels.max() if silence else levels.min()) > MIN_RMS:
            noise = read_remainder(mixture, sources, sample_rate, start)
            yield Crop(sources, mixture.speakers, (), noise)


def _tensors(sources: np.ndarray, noise: np.ndarray | None) -> tuple[Tensor, Tensor | None]:
    return torch.from_numpy(sources), None if noise is None else torch.from_numpy(noise)


def rms(sources: np.ndarray) -> np.ndarray:
    """Return the root mean square over the last dimension."""
    return np.sqrt(np.square(sources).mean(-1))


def crop_loader(
    crops: EpochCrops,
    batch_size: int,
    seed: int,
    collate: Callable[[list[Crop]], tuple[Tensor, Tensor]],
    n_workers: int = 0,
) -> DataLoader:
    """Create a loader of batches in random order.

    The last, smaller batch of an epoch is dropped unless it is the only one.

    Args:
        crops: The crops.
        batch_size: Crops per batch.
        seed: Seed of the order.
        collate: Combines a list of crops into a batch.
        n_workers: Processes that load ahead; 0 loads in this one. The batches are the same.
    """
    return DataLoader(
        crops,
        batch_size,
        sampler=EpochSampler(len(crops), seed),
        collate_fn=collate,
        drop_last=len(crops) > batch_size,
        num_workers=n_workers,
        persistent_workers=n_workers > 0,
    )
