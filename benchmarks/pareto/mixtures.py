"""Mixtures of LibriSpeech voices as in front of one microphone: both voices of one polarity.

The voices are those that the recipe free-2mix holds out, so that the shipped model never heard
them. Levels differ as in the recipe.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import read_audio
from spikesep.separation.audio.levels import active_level
from spikesep.separation.audio.polarity import polarity
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora import list_utterances

RATE = 8000
RECIPE_SEED = 0
"""Seed of free-2mix, which determines the voices held out."""
SNR_DB = (0.0, 5.0)
LEVEL_DB = -25.0
"""Mean active level of the two voices, dB of full scale."""


def read_voices(librispeech: Path, split: str) -> dict[str, list[Path]]:
    """Return the recordings of each voice of a split: `tt` held out, `tr` heard in training.

    Raises:
        SpikeSepError: there is no LibriSpeech.
    """
    if not librispeech.is_dir():
        raise SpikeSepError(f"--librispeech {librispeech}: no such folder; give LibriSpeech's")
    config = CorpusConfig("librispeech", str(librispeech), min_seconds=1.5)
    table, _ = list_utterances(config, Path("unused"), RECIPE_SEED, 1)
    found = defaultdict(list)
    for row in table:
        if row.split == split:
            found[row.speaker].append(row.path)
    return dict(found)


def aligned_mixtures(
    voices: dict[str, list[Path]], count: int, seed: int, most_seconds: float = 4.0
) -> list[np.ndarray]:
    """Return the sources of mixtures of two voices each, float32 [2, T] at 8 kHz.

    Args:
        voices: recordings by speaker.
        count: number of mixtures.
        seed: chooses pairs, recordings, parts and levels.
        most_seconds: longest mixture.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        pair = rng.choice(sorted(voices), 2, replace=False)
        sounds = [_upright(voices[name][rng.integers(len(voices[name]))]) for name in pair]
        length = min(*map(len, sounds), round(most_seconds * RATE))
        starts = [int(rng.integers(len(sound) - length + 1)) for sound in sounds]
        parts = [sound[k : k + length] for sound, k in zip(sounds, starts, strict=True)]
        half = rng.uniform(*SNR_DB) / 2
        levels = LEVEL_DB + half, LEVEL_DB - half
        sources = [
            part * 10 ** ((level - active_level(part, RATE)) / 20)
            for part, level in zip(parts, levels, strict=True)
        ]
        found.append(np.stack(sources).astype(np.float32))
    return found


def _upright(path: Path) -> np.ndarray:
    """Read a recording and turn it to positive polarity, estimated from all of it."""
    samples = read_audio(path, RATE)
    return samples * polarity(samples, RATE)
