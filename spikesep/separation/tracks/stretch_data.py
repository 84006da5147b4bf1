"""Training data of the embedder: features of single voices, clean and separated."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import read_segment
from spikesep.separation.audio.resampling import resample
from spikesep.separation.config import RecipeConfig
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.dynamic_mixing import DynamicCrops
from spikesep.separation.model.separator import Separator
from spikesep.separation.tracks.embedder import SpeakerEmbedder
from spikesep.training.sampling import EpochSampler

QUIET_DB = 30.0
"""Frames this far below the loudest do not count."""
MIN_SECONDS = 1.0
LEAK_DB = (10.0, 22.0)
"""Level of another voice that is added to half of the utterances, below theirs."""

Features = dict[str, list[np.ndarray]]
"""Features and weights of each speaker's utterances, float16 [F + 1, K] each."""


def extract(embedder: SpeakerEmbedder, voice: np.ndarray) -> np.ndarray:
    """Return the features of a voice [T] and the weights of its frames, float16 [F + 1, K]."""
    hop = embedder.config.hop
    voice = voice[: len(voice) // hop * hop].astype(np.float32)
    with torch.inference_mode():
        features = embedder.features(torch.from_numpy(voice)[None])[0].numpy()
    power = np.square(voice).reshape(-1, hop).mean(1)
    weights = power > power.max() * 10 ** (-QUIET_DB / 10)
    return np.concatenate([features, weights[None]]).astype(np.float16)


def clean_features(
    embedder: SpeakerEmbedder, utterances: Iterable[Utterance], seconds: float, leaks: bool
) -> Features:
    """Extract features of utterances.

    Args:
        embedder: its front end and sample rate are used.
        utterances: the utterances.
        seconds: largest duration of a speaker's utterances together.
        leaks: add a trace of another voice to every other utterance.
    """
    features: Features = defaultdict(list)
    spent: dict[str, float] = defaultdict(float)
    rate, rng, other = embedder.config.sample_rate, np.random.default_rng(0), np.zeros(1)
    for row in utterances:
        left = seconds - spent[row.speaker]
        if left < MIN_SECONDS:
            continue
        voice = _read(row, rate, left)
        spent[row.speaker] += len(voice) / rate
        if len(voice) < MIN_SECONDS * rate or not voice.any():
            continue
        voice = rng.choice([-1, 1]) * voice / np.abs(voice).max()
        if leaks and len(features) % 2:
            extract_from = voice + 10 ** (-rng.uniform(*LEAK_DB) / 20) * np.resize(
                other, len(voice)
            )
        else:
            extract_from = voice
        features[row.speaker].append(extract(embedder, extract_from))
        other = voice
    return features


def _read(row: Utterance, rate: int, seconds: float) -> np.ndarray:
    samples, found = read_segment(row.path, lambda _, rate: (0, round(seconds * rate)))
    return resample(samples.astype(np.float64), found, rate)


def separated_features(
    embedder: SpeakerEmbedder,
    separator: Separator,
    utterances: Sequence[Utterance],
    recipe: RecipeConfig,
) -> Features:
    """Extract features of the outputs of a separator for training mixtures.

    Each output is a voice of the speaker whose source it resembles most.
    """
    config, mixing = recipe.tracks, recipe.mixing
    crops = DynamicCrops(
        utterances,
        config.mixtures,
        n_speakers=separator.config.n_speakers,
        sample_rate=separator.sample_rate,
        n_samples=round(config.mixture_seconds * separator.sample_rate),
        snr_db=mixing.snr_db,
        speeds=[1.0],
        by_amount=0.0,
        effects=mixing.dynamic.channel,
        polarity=mixing.polarity,
        seed=recipe.seed,
    )
    features: Features = defaultdict(list)
    for k in range(config.mixtures):
        crop = crops[0, k]
        mixture = torch.from_numpy(crop.sources.sum(0))
        estimates = separator.separate(mixture).numpy()
        likeness = np.abs(estimates @ crop.sources.T) / np.linalg.norm(crop.sources, axis=1)
        for estimate, source in zip(estimates, likeness.argmax(1), strict=True):
            features[crop.speakers[source]].append(extract(embedder, estimate))
    return features


class SpeakerPairs(Dataset):
    """Two random stretches of one speaker, by (epoch, index of the speaker).

    Args:
        features: features of the utterances.
        n_frames: length of a stretch in frames; shorter utterances are padded.
        seed: seed of the stretches.

    Raises:
        SpikeSepError: there are fewer than two speakers.
    """

    def __init__(self, features: Features, n_frames: int, seed: int):
        self.speakers = sorted(speaker for speaker in features if features[speaker])
        if len(self.speakers) < 2:
            raise SpikeSepError("tracks: two speakers are needed; add speech (stage 0)")
        self.features, self.n_frames, self.seed = features, n_frames, seed

    def __len__(self) -> int:
        return len(self.speakers)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        rng = np.random.default_rng((self.seed, *key))
        utterances = self.features[self.speakers[key[1]]]
        chosen = rng.choice(len(utterances), 2, replace=len(utterances) < 2)
        stretches = [self._crop(utterances[k], rng) for k in chosen]
        return torch.from_numpy(np.stack(stretches).astype(np.float32)), key[1]

    def _crop(self, utterance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        n = utterance.shape[1]
        start = int(rng.integers(max(1, n - self.n_frames + 1)))
        crop = utterance[:, start : start + self.n_frames]
        return np.pad(crop, ((0, 0), (0, self.n_frames - crop.shape[1])))


class FixedPairs(Dataset):
    """The stretches of the first epoch, by index.

    Args:
        pairs: pairs of all speakers.
        at_most: largest number of speakers.
    """

    def __init__(self, pairs: SpeakerPairs, at_most: int):
        order = np.random.default_rng(pairs.seed).permutation(len(pairs))[:at_most]
        self.items = [pairs[0, int(index)] for index in order]

    def __len__(self) -> int:
        return 2 * len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        stretches, speaker = self.items[index // 2]
        return stretches[index % 2], torch.tensor(speaker)


def pair_loader(pairs: SpeakerPairs, n_speakers: int, seed: int) -> DataLoader:
    """Return batches [2 * n_speakers, F + 1, K] with their speakers, in random order."""
    return DataLoader(
        pairs,
        min(n_speakers, len(pairs)),
        sampler=EpochSampler(len(pairs), seed),
        collate_fn=_collate,
        drop_last=True,
    )


def _collate(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    stretches = torch.cat([pair for pair, _ in items])
    return stretches, torch.tensor([speaker for _, speaker in items]).repeat_interleave(2)
