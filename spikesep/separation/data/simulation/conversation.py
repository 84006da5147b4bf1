"""Timing of conversations: who speaks when.

Utterances follow one another as in simulated conversations (Landini et al., 2022): a pause between
those of one speaker; at a change of speakers, a gap or an overlap. Durations are log-normal, as
those of overlaps are (Laskowski et al., 2012); 40 % of the changes overlap (Heldner and Edlund,
2010). Backchannels, short utterances during those of others, are added. With the default settings,
two voices overlap in about 13 % of the speech, as in the two-speaker conversations of CALLHOME.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spikesep.separation.mixing_config import ConversationConfig

SPREAD = 0.7
"""Standard deviation of the logarithm of all durations."""
MIN_TURN_SECONDS = 0.3
BACKCHANNEL_SECONDS = (0.3, 0.8)
MAX_OVERLAP_SHARE = 0.9
"""Largest overlap with the utterance before, as a share of that utterance."""
FADE_SECONDS = 0.01
"""Duration of the fades at both ends of an utterance that is cut from a recording."""
WARM_UP_SECONDS = 20.0
"""Part of a conversation that is skipped to begin in the midst of it."""


@dataclass(frozen=True)
class Turn:
    """One utterance of a conversation.

    Attributes:
        speaker: Index of the speaker.
        start: Beginning in seconds.
        end: End in seconds.
    """

    speaker: int
    start: float
    end: float


def draw_conversation(
    rng: np.random.Generator, n_speakers: int, seconds: float, config: ConversationConfig
) -> list[Turn]:
    """Draw the utterances of a conversation, sorted by start.

    Utterances of one speaker never overlap. The last ones are cut at the end.

    Args:
        rng: Random generator.
        n_speakers: Number of speakers; one speaks alone, with pauses.
        seconds: Duration of the conversation.
        config: Statistics.
    """
    turns: list[Turn] = []
    ends = np.zeros(n_speakers)
    speaker, floor = int(rng.integers(n_speakers)), 0.0
    while floor < seconds:
        gap = _duration(rng, config.pause_seconds)
        if n_speakers > 1 and rng.random() < config.change:
            speaker = _another(rng, speaker, n_speakers)
            gap = _draw_gap(rng, config, turns[-1].end - turns[-1].start if turns else 0.0)
        start = max(0.0, floor + gap, ends[speaker])
        end = start + max(MIN_TURN_SECONDS, _duration(rng, config.turn_seconds))
        turn = Turn(speaker, start, end)
        turns.append(turn)
        ends[speaker], floor = end, max(floor, end)
        if n_speakers > 1:
            for backchannel in _draw_backchannels(rng, turn, ends, config.backchannels / 60):
                ends[backchannel.speaker] = backchannel.end
                turns.insert(-1, backchannel)
    return _window(turns, 0.0, seconds)


def draw_excerpt(
    rng: np.random.Generator, n_speakers: int, seconds: float, config: ConversationConfig
) -> list[Turn]:
    """Draw the utterances of a random part from the midst of a conversation."""
    turns = draw_conversation(rng, n_speakers, WARM_UP_SECONDS + seconds, config)
    return _window(turns, WARM_UP_SECONDS, seconds)


def fade_edges(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Fade samples [T] in and out."""
    n = min(round(FADE_SECONDS * sample_rate), len(samples) // 2)
    ramp = np.sin(np.pi / 2 * (np.arange(n) + 0.5) / n) ** 2 if n else np.ones(0)
    faded = samples.copy()
    faded[:n] *= ramp
    faded[len(faded) - n :] *= ramp[::-1]
    return faded


def measure_overlap(turns: Sequence[Turn]) -> tuple[float, float]:
    """Return the seconds in which anyone speaks, and those in which two or more do."""
    changes = sorted([(turn.start, 1) for turn in turns] + [(turn.end, -1) for turn in turns])
    speech = overlap = 0.0
    active, last = 0, 0.0
    for time, change in changes:
        speech += (time - last) * (active > 0)
        overlap += (time - last) * (active > 1)
        active, last = active + change, time
    return speech, overlap


def _duration(rng: np.random.Generator, median: float) -> float:
    return float(rng.lognormal(np.log(median), SPREAD))


def _another(rng: np.random.Generator, speaker: int, n_speakers: int) -> int:
    return int((speaker + 1 + rng.integers(n_speakers - 1)) % n_speakers)


def _draw_gap(rng: np.random.Generator, config: ConversationConfig, previous: float) -> float:
    """Draw the gap at a change of speakers, negative for an overlap with the previous utterance."""
    if rng.random() < config.overlap:
        return -min(_duration(rng, config.overlap_seconds), MAX_OVERLAP_SHARE * previous)
    return _duration(rng, config.gap_seconds)


def _draw_backchannels(
    rng: np.random.Generator, turn: Turn, ends: np.ndarray, rate: float
) -> list[Turn]:
    """Draw backchannels to a turn by speakers who are silent then; `rate` is per second."""
    found, free = [], ends.copy()
    for _ in range(rng.poisson(rate * (turn.end - turn.start))):
        speaker = _another(rng, turn.speaker, len(ends))
        seconds = rng.uniform(*BACKCHANNEL_SECONDS)
        start = turn.start + rng.uniform() * (turn.end - turn.start)
        if start >= free[speaker] and start + seconds <= turn.end:
            free[speaker] = start + seconds
            found.append(Turn(speaker, start, start + seconds))
    return found


def _window(turns: Sequence[Turn], start: float, seconds: float) -> list[Turn]:
    """Return the parts of turns within a window, relative to its start."""
    cut = [
        Turn(turn.speaker, max(0.0, turn.start - start), min(seconds, turn.end - start))
        for turn in turns
    ]
    return sorted((turn for turn in cut if turn.start < turn.end), key=lambda turn: turn.start)
