"""Mixtures as training examples: random, remixed crops for pre-training, fixed crops for conversion and validation.

Where the mixture is the sum of its sources, as `listen` finds out, only the sources are read. Where it is not, what it
holds beside them (noise, reverberation) is read with every crop. Every random choice follows from (seed, epoch, index):
a run that goes on after a break sees what an unbroken one would have seen.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spikesep.errors import SpikeSepError
from spikesep.provenance import available_cores
from spikesep.separation.audio.containers import find_extent
from spikesep.separation.data.kaldi import Mixture
from spikesep.separation.data.recording_channel import draw_polarity
from spikesep.training.sampling import EpochSampler

QUIET = 1e-3
"""A source whose root mean square in a crop is below this says nothing there; SI-SDR against it means nothing."""
STEP = 1 / 32768
"""Of 16-bit samples."""
MAX_GAIN_DB = 20.0
"""A near-silent crop is not raised by more than this: its noise would become the voice."""


@dataclass(frozen=True)
class Crop:
    """Part of a mixture: the sources, float32 [n_speakers, samples], their speakers, and a seed for what follows.

    `noise`, float32 [samples], is what the mixture has beside them.
    """

    sources: np.ndarray
    speakers: tuple[str, ...]
    seed: tuple[int, ...]
    noise: np.ndarray | None = None


class RandomCrops(Dataset):
    """One crop of `n_samples` from each mixture, another in each epoch; indexed by (epoch, index).

    Args:
        mixtures: a data directory.
        sample_rate: that the files must have, Hz.
        n_samples: of a crop; a shorter mixture is followed by zeros.
        seed: of the crops.
    """

    TRIES = 4  # places to look for a crop in which everybody speaks

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
        n_samples = _n_samples(mixture)
        for _ in range(self.TRIES):
            start = int(rng.integers(0, max(1, n_samples - self.n_samples + 1)))
            sources = read_sources(mixture, self.sample_rate, start, self.n_samples)
            if _rms(sources).min() > QUIET:
                break
        return Crop(
            sources, mixture.speakers, seed, _read_rest(mixture, sources, self.sample_rate, start)
        )


class CropList(Dataset):
    """Crops that stay the same: (mixture [samples], sources [n_speakers, samples]).

    Args:
        crops: to keep.
    """

    def __init__(self, crops: Iterable[Crop]):
        self.crops = [_tensors(crop.sources, crop.noise) for crop in crops]
        if not self.crops:
            raise SpikeSepError(
                "no crop in which all speakers are heard; check the mixtures (stage 1), or the segment length"
            )

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sources, noise = self.crops[index]
        return sources.sum(0) if noise is None else sources.sum(0) + noise, sources


class FixedCrops(CropList):
    """Consecutive crops of every mixture in which all speak: (mixture [samples], sources [n_speakers, samples]).

    Args:
        mixtures: a data directory.
        sample_rate: that the files must have, Hz.
        n_samples: of a crop; the last crop of a mixture is followed by zeros.
        at_most: take this many, drawn from all by `seed`; None takes all.
        seed: of the draw.
    """

    def __init__(
        self,
        mixtures: Sequence[Mixture],
        sample_rate: int,
        n_samples: int,
        at_most: int | None = None,
        seed: int = 0,
    ):
        places = [
            (m, start)
            for m in mixtures
            for start in range(0, max(1, _n_samples(m) - n_samples // 2), n_samples)
        ]
        order = np.random.default_rng(seed).permutation(len(places))
        super().__init__(
            islice(_audible((places[k] for k in order), sample_rate, n_samples), at_most)
        )


def _audible(
    places: Iterable[tuple[Mixture, int]], sample_rate: int, n_samples: int
) -> Iterator[Crop]:
    """The crops at these places in which all speak."""
    for mixture, start in places:
        sources = read_sources(mixture, sample_rate, start, n_samples)
        if _rms(sources).min() > QUIET:
            yield Crop(
                sources, mixture.speakers, (), _read_rest(mixture, sources, sample_rate, start)
            )


def _tensors(sources: np.ndarray, noise: np.ndarray | None) -> tuple[Tensor, Tensor | None]:
    return torch.from_numpy(sources), None if noise is None else torch.from_numpy(noise)


@dataclass(frozen=True)
class Collate:
    """Crops -> (mixtures [B, samples], sources [B, n_speakers, samples]).

    Attributes:
        remix: re-pair the sources within the batch at new levels; what mixtures hold beside them stays in its place.
        snr_db: range of a new level.
        random_polarity: turn each source over or not, by lot.

    Neither suits mixtures with a residual (`Mixture.has_residual`), which may be reverberation of their own sources.
    """

    remix: bool
    snr_db: tuple[float, float]
    random_polarity: bool = False

    @property
    def whole_batch(self) -> bool:
        """Processes that share a batch each need all of it: any two examples may meet."""
        return self.remix

    def __call__(self, crops: list[Crop]) -> tuple[Tensor, Tensor]:
        """Stack, and remix."""
        sources = np.stack([crop.sources for crop in crops])
        if self.remix:
            sources = remix(
                sources,
                [crop.speakers for crop in crops],
                self.snr_db,
                np.random.default_rng(crops[0].seed),
            )
        if self.random_polarity:
            sources = sources * np.stack(
                [
                    draw_polarity(np.random.default_rng((*crop.seed, 1)), len(crop.sources))[
                        :, None
                    ]
                    for crop in crops
                ]
            )
        mixtures = sources.sum(1)
        for mixture, crop in zip(mixtures, crops, strict=True):
            if crop.noise is not None:
                mixture += crop.noise
        return torch.from_numpy(mixtures), torch.from_numpy(sources)


def remix(
    sources: np.ndarray,
    speakers: Sequence[tuple[str, ...]],
    snr_db: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Re-pair the sources of a batch, never a speaker with himself, each pair at a level drawn anew.

    Args:
        sources: [B, n_speakers, samples].
        speakers: of each example.
        snr_db: one source, drawn by lot, is louder by a level uniform in this range.
        rng: of all choices.

    Returns:
        [B, n_speakers, samples]. Where no re-pairing is found that keeps speakers apart, the pairs stay as they were.
    """
    n_batch, n_speakers, _ = sources.shape
    names = np.array(speakers)
    order = np.tile(np.arange(n_batch), (n_speakers, 1))
    for s in range(1, n_speakers):
        for _ in range(20):
            order[s] = rng.permutation(n_batch)
            if all((names[order[s], s] != names[order[e], e]).all() for e in range(s)):
                break
        else:
            return sources
    paired = np.stack([sources[order[s], s] for s in range(n_speakers)], 1)
    # Half of the level difference on either side of the batch's own mean level; by lot, the one or the other is louder.
    offset = (
        rng.uniform(*snr_db, (n_batch, 1))
        / 2
        * rng.choice([-1, 1], (n_batch, 1))
        * (-1.0) ** np.arange(n_speakers)
    )
    gain_db = _level(sources).mean() + offset - _level(paired)
    return (paired * 10 ** (np.minimum(gain_db, MAX_GAIN_DB) / 20)[..., None]).astype(np.float32)


def read_sources(mixture: Mixture, sample_rate: int, start: int, n_samples: int) -> np.ndarray:
    """Samples start..start+n_samples of every source, float32 [n_speakers, n_samples], followed by zeros where it ends.

    Raises:
        SpikeSepError: a file is missing, broken, cut off, of another sample rate or of another length than the others.
    """
    return _read_alike(mixture.sources, sample_rate, start, n_samples)


def listen(mixtures: Sequence[Mixture], sample_rate: int) -> tuple[list[Mixture], str]:
    """Read all files of a set once, to find the mixtures that are not the sum of their sources and noise.

    A mixture is taken for the sum if it differs from it nowhere by more than the rounding of all files to 16 bits can
    make of it, (parts + 1) / 2 steps, or because the sum was clipped at full scale.

    Args:
        mixtures: a data directory.
        sample_rate: that the files must have, Hz.

    Returns:
        the mixtures, with `has_residual` set, and a hash of the ids and samples of them all.

    Raises:
        SpikeSepError: a file cannot be read, or differs from the others of its mixture in length.
    """
    with ThreadPoolExecutor(available_cores()) as pool:
        heard = list(pool.map(partial(_listen, sample_rate=sample_rate), mixtures))
    checksums = "".join(
        f"{mixture.utt_id} {checksum:08x}\n"
        for mixture, (_, checksum) in zip(mixtures, heard, strict=True)
    )
    found = [
        replace(mixture, has_residual=odd)
        for mixture, (odd, _) in zip(mixtures, heard, strict=True)
    ]
    return found, hashlib.sha256(checksums.encode()).hexdigest()[:16]


def _listen(mixture: Mixture, sample_rate: int) -> tuple[bool, int]:
    """Whether a mixture is not the sum of its parts, and a checksum of all their samples."""
    parts = (*mixture.sources, *([mixture.noise] if mixture.noise else []))
    samples = _read_alike((*parts, mixture.mixture), sample_rate, 0, _n_samples(mixture))
    for path, row in zip((*parts, mixture.mixture), samples, strict=True):
        if not np.isfinite(row).all():
            raise SpikeSepError(f"{path}: holds NaN or Inf; export it again")
    total = samples[:-1].sum(0).clip(-1, 1)
    rounding = (len(parts) + 1) / 2 * STEP
    return bool(np.abs(samples[-1] - total).max(initial=0.0) > rounding + 0.01 * STEP), zlib.crc32(
        samples
    )


def _read_alike(paths: Sequence[Path], sample_rate: int, start: int, n_samples: int) -> np.ndarray:
    """As `read_sources`, of any files that must be of one length: float32 [files, n_samples]; channels are averaged."""
    rows = np.zeros((len(paths), n_samples), np.float32)
    expected = 0
    for row, path in zip(rows, paths, strict=True):
        try:
            with path.open("rb") as content:
                find_extent(content, str(path))  # libsndfile does not see what is cut off
            with soundfile.SoundFile(path) as file:
                rate, frames = file.samplerate, file.frames
                file.seek(min(start, frames))
                samples = file.read(n_samples, dtype="float32")
        except (soundfile.SoundFileError, OSError) as error:
            raise SpikeSepError(
                f"{path}: cannot be read ({error}); run stage 1 again to repair it, or mend the lists"
            ) from error
        if rate != sample_rate:
            raise SpikeSepError(
                f"{path}: is at {rate} Hz, the model at {sample_rate}; mix at the model's rate (stage 1)"
            )
        if frames != (expected := expected or frames):
            raise SpikeSepError(
                f"{path}: {frames} samples, {paths[0]} has {expected}; run stage 1 again, or cut them to one length"
            )
        row[: len(samples)] = samples if samples.ndim == 1 else samples.mean(1)
    return rows


def training_loader(
    mixtures: Sequence[Mixture],
    sample_rate: int,
    n_samples: int,
    batch_size: int,
    seed: int,
    collate: Collate,
    n_workers: int = 0,
) -> DataLoader:
    """Batches of random crops; the last, smaller batch of an epoch is left out where there is a whole one."""
    return loader_of(
        RandomCrops(mixtures, sample_rate, n_samples, seed), batch_size, seed, collate, n_workers
    )


def loader_of(
    crops: Dataset, batch_size: int, seed: int, collate: Collate, n_workers: int = 0
) -> DataLoader:
    """Batches of examples that are indexed by (epoch, index); as `training_loader`.

    `n_workers` processes make them ahead, or this one when asked: the batches are the same.
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


def _n_samples(mixture: Mixture) -> int:
    try:
        return soundfile.info(mixture.sources[0]).frames
    except (soundfile.SoundFileError, OSError) as error:
        raise SpikeSepError(
            f"{mixture.sources[0]}: cannot be read ({error}); run stage 1 again to repair it"
        ) from error


def _read_rest(
    mixture: Mixture, sources: np.ndarray, sample_rate: int, start: int
) -> np.ndarray | None:
    """What a mixture holds beside its sources [n_speakers, n_samples] from `start` on, float32 [n_samples]; or None."""
    n_samples = sources.shape[1]
    if mixture.has_residual:
        return _read_alike([mixture.mixture], sample_rate, start, n_samples)[0] - sources.sum(0)
    return _read_alike([mixture.noise], sample_rate, start, n_samples)[0] if mixture.noise else None


def _rms(sources: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(sources).mean(-1))


def _level(sources: np.ndarray) -> np.ndarray:
    """dB relative to full scale."""
    return 20 * np.log10(_rms(sources) + 1e-8)
