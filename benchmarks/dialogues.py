"""Simulated conversations: people who talk in turn, with pauses and overlaps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TURN_SECONDS, PAUSE_SECONDS, OVERLAP_SECONDS = (2.0, 6.0), (0.0, 1.5), (0.5, 2.5)
OVERLAPPING_TURNS = 0.45
"""Share of the turns that begin before the turn before them has ended."""
FADE_SECONDS = 0.02
LEVEL_DB = 2.5
"""Largest difference of a voice's level from the mean, either way."""


@dataclass(frozen=True)
class Turn:
    """Samples `start` to `stop` - 1, in which `speaker` talks."""

    start: int
    stop: int
    speaker: int


@dataclass(frozen=True)
class Dialogue:
    """A conversation.

    Attributes:
        sources: the voices, float32 [n_speakers, T].
        turns: the turns, in order of their beginnings.
    """

    sources: np.ndarray
    turns: list[Turn]

    @property
    def mixture(self) -> np.ndarray:
        """Sum of the sources, [T]."""
        return self.sources.sum(0)


def draw_dialogue(
    voices: Sequence[np.ndarray], seconds: float, sample_rate: int, rng: np.random.Generator
) -> Dialogue:
    """Let people talk in turn: each turn is a random crop of the speech of one of them.

    Args:
        voices: speech of each person, [T] of any length.
        seconds: duration of the conversation.
        sample_rate: sample rate in Hz.
        rng: draws turns, pauses, overlaps, crops and levels.
    """
    n = round(seconds * sample_rate)
    voices = [_leveled(voice, rng) for voice in voices]
    sources, turns, ends = np.zeros((len(voices), n), np.float32), [], [0] * len(voices)
    position, speaker = round(rng.uniform(0, 0.5) * sample_rate), int(rng.integers(len(voices)))
    while position < n - sample_rate:
        length = min(round(rng.uniform(*TURN_SECONDS) * sample_rate), n - position)
        crop = _crop(voices[speaker], length, sample_rate, rng)
        stop = ends[speaker] = position + len(crop)
        sources[speaker, position:stop] += crop
        turns.append(Turn(position, stop, speaker))
        speaker = int(rng.choice([k for k in range(len(voices)) if k != speaker]))
        overlaps = rng.uniform() < OVERLAPPING_TURNS
        gap = -rng.uniform(*OVERLAP_SECONDS) if overlaps else rng.uniform(*PAUSE_SECONDS)
        earliest = max(ends[speaker], position + sample_rate)
        position = max(stop + round(gap * sample_rate), earliest)
    return Dialogue(sources, turns)


def _leveled(voice: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale a voice to a random level, measured where it is louder than -10 dB of its power."""
    power = np.square(voice, dtype=np.float64)
    level = np.sqrt(power[power > 0.1 * power.mean()].mean())
    return voice * (0.05 / level * 10 ** (rng.uniform(-LEVEL_DB, LEVEL_DB) / 20))


def _crop(voice: np.ndarray, length: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random crop with faded ends."""
    length = min(length, len(voice))
    start = int(rng.integers(len(voice) - length + 1))
    ramp = np.linspace(0, 1, min(round(FADE_SECONDS * sample_rate), length // 2))
    envelope = np.ones(length)
    envelope[: len(ramp)], envelope[length - len(ramp) :] = ramp, ramp[::-1]
    return voice[start : start + length] * envelope
