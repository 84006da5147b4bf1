"""Mixtures that are made from utterances during training, without files on disk.

Each epoch has other voices, words, levels and speeds, and other rooms, noises and turns if they are
simulated. Every choice follows from (seed, epoch, index), regardless of the process or worker that
makes a mixture.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import read_segment
from spikesep.separation.audio.levels import active_level
from spikesep.separation.audio.resampling import resample
from spikesep.separation.data import recording_channel
from spikesep.separation.data.corpora.table import ABSENT, Utterance
from spikesep.separation.data.dataset import Crop, EpochCrops
from spikesep.separation.data.mixing.balanced import MAX_PEAK, MEAN_LEVEL_DB, PAUSE_DB
from spikesep.separation.data.simulation.conversation import Turn, draw_excerpt, fade_edges
from spikesep.separation.data.simulation.simulator import Simulator
from spikesep.separation.data.speaker_balance import speaker_probabilities
from spikesep.separation.mixing_config import ConversationConfig

POLARITY_SECONDS = 3.0
"""Length of the beginning of a recording that is used to detect its polarity."""
MIN_TURN_SECONDS = 0.2
"""Shortest part of a turn that is heard at an edge of a crop."""

Voice = tuple[np.ndarray, float]
"""Samples, float64 [T], and their active level in dB."""


class DynamicCrops(EpochCrops):
    """Random mixtures of different speakers, of which each epoch has other ones.

    Args:
        utterances: Utterances to mix.
        n: Mixtures per epoch.
        n_speakers: Voices per mixture.
        sample_rate: Sample rate of the mixtures in Hz; recordings may have any.
        n_samples: Length of a mixture; shorter utterances are padded with zeros.
        snr_db: Range of the difference in active speech level, which is uniform; which voice is
            louder is random.
        speeds: Speed factors, one of which is drawn for each voice; they change pace and pitch.
        by_amount: Exponent of a speaker's total duration in the probability of the speaker. Women
            and men are always drawn equally often.
        by_corpus: Exponent of a corpus's total in the probability of the corpus.
        effects: Parts of the random recording channel of each source (`mixing.dynamic.channel`).
        polarity: `as_recorded`, `aligned` or `opposite`, as in `MixingConfig`; detected in the
            first recording of each speaker.
        counts: Probabilities of mixtures of one voice, two voices and so on; the other sources are
            zero. Empty for `n_speakers` in each mixture.
        conversation: Timing of the mixtures that are parts of a conversation; None for none.
        simulator: Rooms, noise and damage; None for none.
        seed: Seed of all choices.

    Raises:
        SpikeSepError: If there are fewer speakers than a mixture has, or fewer sources than voices.
    """

    TRIES = 4  # positions that are tried to find a crop in which the voice is heard
    MAX_TRIES = 100  # positions that are tried to find one in which anything is heard

    def __init__(
        self,
        utterances: Sequence[Utterance],
        n: int,
        *,
        n_speakers: int,
        sample_rate: int,
        n_samples: int,
        snr_db: tuple[float, float],
        speeds: Sequence[float],
        by_amount: float,
        effects: Sequence[str],
        by_corpus: float = 1.0,
        polarity: str = "as_recorded",
        counts: Sequence[float] = (),
        conversation: ConversationConfig | None = None,
        simulator: Simulator | None = None,
        seed: int,
    ):
        voices: dict[str, list[Utterance]] = defaultdict(list)
        for row in sorted(utterances, key=lambda row: row.utt_id):
            voices[row.speaker].append(row)
        if len(voices) < n_speakers:
            raise SpikeSepError(
                f"{len(voices)} speakers to mix on the fly, {n_speakers} are needed; "
                "add voices to `tr`"
            )
        if len(counts) > n_speakers:
            raise SpikeSepError(
                f"--mixing.dynamic.voices {list(counts)}: the model separates {n_speakers} voices; "
                "give as many shares at most"
            )
        self.voices = dict(sorted(voices.items()))
        self.n, self.n_speakers, self.seed = n, n_speakers, seed
        self.sample_rate, self.n_samples = sample_rate, n_samples
        self.snr_db, self.speeds, self.effects = snr_db, speeds, frozenset(effects)
        self.polarity, self.counts = polarity, np.array(counts, float)
        self.conversation, self.simulator = conversation, simulator
        self.probabilities = speaker_probabilities(self.voices, by_amount, by_corpus)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        seed = (self.seed, *key)
        rng = np.random.default_rng(seed)
        count = self._draw_count(rng)
        drawn = rng.choice(list(self.voices), count, replace=False, p=self.probabilities)
        speakers = tuple(map(str, drawn))
        n_lead = self.simulator.n_lead if self.simulator else 0
        sources = self._draw_sources(speakers, self.n_samples + n_lead, rng)
        rest = np.zeros(sources.shape[1])
        if "floor" in self.effects:
            rest = recording_channel.draw_floor(rng, len(rest), MEAN_LEVEL_DB)
        if self.simulator:
            sources, rest = self.simulator.apply(sources, rest, seed)
            sources, rest = sources[:, n_lead:], rest[n_lead:]
        sources, noise = _limit_peak(sources, rest)
        absent = self.n_speakers - count
        if absent:
            sources = np.pad(sources, ((0, absent), (0, 0)))
        has_rest = self.simulator or "floor" in self.effects
        return Crop(sources, (*speakers, *[ABSENT] * absent), seed, noise if has_rest else None)

    def _draw_count(self, rng: np.random.Generator) -> int:
        """Draw the number of voices."""
        if not self.counts.size:
            return self.n_speakers
        return 1 + int(rng.choice(self.counts.size, p=self.counts / self.counts.sum()))

    def _draw_sources(
        self, speakers: Sequence[str], n_samples: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw the voices through their channels at their levels, [S, n_samples]."""
        if self.conversation and rng.random() < self.conversation.probability:
            voices = self._draw_conversation(speakers, n_samples, rng)
        else:
            voices = [self._draw_voice(self.voices[name], n_samples, rng) for name in speakers]
        if "equalizer" in self.effects:
            voices = self._equalize(voices, rng)
        sources = self._scale(voices, rng)
        if self.polarity != "as_recorded":
            sources *= self._signs(speakers, rng)[:, None]
        if "polarity" in self.effects:
            sources *= recording_channel.draw_polarity(rng, len(speakers))[:, None]
        return sources

    def _draw_conversation(
        self, speakers: Sequence[str], n_samples: int, rng: np.random.Generator
    ) -> list[Voice]:
        """Draw part of a conversation; a voice without a turn in it is silent."""
        assert self.conversation is not None
        seconds = n_samples / self.sample_rate
        turns = draw_excerpt(rng, len(speakers), seconds, self.conversation)
        return [
            self._speak(name, [turn for turn in turns if turn.speaker == k], n_samples, rng)
            for k, name in enumerate(speakers)
        ]

    def _speak(
        self, name: str, turns: Sequence[Turn], n_samples: int, rng: np.random.Generator
    ) -> Voice:
        """Fill the turns of a speaker with speech at one level, and the rest with silence."""
        track, rate = np.zeros(n_samples), self.sample_rate
        for turn in turns:
            start, end = round(turn.start * rate), round(turn.end * rate)
            if end - start >= MIN_TURN_SECONDS * rate:
                samples, level = self._draw_voice(self.voices[name], end - start, rng)
                track[start:end] = fade_edges(samples, rate) * 10 ** (-level / 20)
        return track, active_level(track, rate)

    def _signs(self, speakers: Sequence[str], rng: np.random.Generator) -> np.ndarray:
        """Draw signs that give the voices the same or opposite polarity, [n_speakers]."""
        detected = [recording_polarity(self.voices[speaker][0].path) for speaker in speakers]
        flips = np.where(np.arange(len(speakers)) % 2, -1 if self.polarity == "opposite" else 1, 1)
        return rng.choice([-1, 1]) * flips * detected

    def _equalize(self, voices: list[Voice], rng: np.random.Generator) -> list[Voice]:
        """Pass each voice through a random equalizer."""
        equalized = [
            recording_channel.equalize(
                samples, recording_channel.draw_equalizer(rng, self.sample_rate)
            )
            for samples, _ in voices
        ]
        return [(samples, active_level(samples, self.sample_rate)) for samples in equalized]

    def _scale(self, voices: list[Voice], rng: np.random.Generator) -> np.ndarray:
        """Scale the voices to a random difference in active level, [S, T]."""
        offset = (
            rng.uniform(*self.snr_db) / 2 * rng.choice([-1, 1]) * (-1.0) ** np.arange(len(voices))
        )
        return np.stack(
            [
                samples * 10 ** ((MEAN_LEVEL_DB + louder - level) / 20)
                if np.isfinite(level)
                else np.zeros_like(samples)
                for (samples, level), louder in zip(voices, offset, strict=True)
            ]
        )

    def _draw_voice(
        self, utterances: list[Utterance], n_samples: int, rng: np.random.Generator
    ) -> Voice:
        """Draw a crop of one of a speaker's utterances that is not a pause.

        It is the first of a few random crops within 15 dB of the level of the utterance, or else
        the loudest of them.

        Raises:
            SpikeSepError: If no crop is audible.
        """
        row = utterances[rng.integers(len(utterances))]
        min_level = recording_level(row.path) - PAUSE_DB
        loudest = np.zeros(n_samples), -np.inf
        for k in range(self.MAX_TRIES):
            samples = self._read_crop(
                row.path, rng.uniform(), float(rng.choice(self.speeds)), n_samples
            )
            level = active_level(samples, self.sample_rate)
            loudest = max(loudest, (samples, level), key=lambda found: found[1])
            if loudest[1] > min_level or (k + 1 >= self.TRIES and np.isfinite(loudest[1])):
                return loudest
        raise SpikeSepError(f"{row.path}: is almost silent; remove it from the table of utterances")

    def _read_crop(self, path: Path, position: float, speed: float, n_samples: int) -> np.ndarray:
        """Read a crop, [n_samples], at a relative `position` (0 to 1), played at `speed`."""

        def bounds(length: int, rate: int) -> tuple[int, int]:
            wanted = int(np.ceil(n_samples * round(rate * speed) / self.sample_rate))
            start = int(position * (max(0, length - wanted) + 1))
            return start, wanted

        samples, rate = read_segment(path, bounds)
        resampled = resample(samples.astype(np.float64), round(rate * speed), self.sample_rate)
        crop = resampled[:n_samples]
        return np.pad(crop, (0, n_samples - len(crop)))


def _limit_peak(sources: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale sources and rest down, if necessary, so that no signal exceeds `MAX_PEAK`; float32."""
    peak = max(np.abs(sources).max(), np.abs(sources.sum(0) + rest).max())
    gain = np.float32(min(1.0, MAX_PEAK / max(peak, np.finfo(np.float32).tiny)))
    return (sources * gain).astype(np.float32), (rest * gain).astype(np.float32)


@cache
def recording_level(path: Path) -> float:
    """Return the active level of a recording in dB; each recording is read once.

    Raises:
        SpikeSepError: If the recording is silent or cannot be read.
    """
    samples, rate = read_segment(path, lambda length, _: (0, length))
    level = active_level(samples, rate)
    if not np.isfinite(level):
        raise SpikeSepError(f"{path}: is silent; remove it from the table of utterances")
    return level


@cache
def recording_polarity(path: Path) -> int:
    """Return the polarity of a recording, 1 or -1; each recording is analyzed once."""
    from spikesep.separation.audio import polarity  # imports librosa

    return polarity.recording_polarity(path, POLARITY_SECONDS)
