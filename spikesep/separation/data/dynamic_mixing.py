"""Mixtures made while training, of utterances alone: other voices, words, levels and speeds in each epoch, and
nothing on disk.

Every choice follows from (seed, epoch, index), as with crops of mixtures; which process or worker makes one is the
same.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import read_part
from spikesep.separation.audio.levels import active_level
from spikesep.separation.audio.resampling import resample
from spikesep.separation.data import recording_channel
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.dataset import Crop
from spikesep.separation.data.mixing.balanced import EMPTY_DB, MEAN_LEVEL_DB, MOST_PEAK


class DynamicCrops(Dataset):
    """`n` mixtures an epoch of different speakers; indexed by (epoch, index).

    Args:
        utterances: to mix.
        n: mixtures in an epoch.
        n_speakers: voices of a mixture.
        sample_rate: of the mixtures, Hz; recordings may be at any.
        n_samples: of a crop; a shorter utterance is followed by zeros.
        snr_db: one voice, drawn by lot, is louder by a level uniform in this range, on active speech level.
        speeds: factors, one of which is drawn for each voice; it changes pace and pitch.
        by_amount: weight a speaker by the seconds of speech there are of them, to this power. Women
            and men are then drawn equally often.
        effects: which parts of a random recording channel each source passes through (`mixing.dynamic.channel`).
        seed: of everything.

    Raises:
        SpikeSepError: fewer speakers than a mixture has.
    """

    TRIES, MOST_TRIES = (
        4,
        100,
    )  # places to look for a crop in which the voice is heard; in which anything is

    def __init__(
        self, utterances: Sequence[Utterance], n: int, n_speakers: int, sample_rate: int, n_samples: int,
        snr_db: tuple[float, float], speeds: Sequence[float], by_amount: float, effects: Sequence[str], seed: int,
    ):  # fmt: skip
        voices: dict[str, list[Utterance]] = defaultdict(list)
        for row in sorted(utterances, key=lambda row: row.utt_id):
            voices[row.speaker].append(row)
        if len(voices) < n_speakers:
            raise SpikeSepError(
                f"{len(voices)} speakers to mix on the fly, {n_speakers} are needed; add voices to `tr`"
            )
        self.voices = dict(sorted(voices.items()))
        self.n, self.n_speakers, self.seed = n, n_speakers, seed
        self.sample_rate, self.n_samples = sample_rate, n_samples
        self.snr_db, self.speeds, self.effects = snr_db, speeds, frozenset(effects)
        self.share = _shares(self.voices, by_amount)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        seed = (self.seed, *key)
        rng = np.random.default_rng(seed)
        speakers = tuple(
            map(str, rng.choice(list(self.voices), self.n_speakers, replace=False, p=self.share))
        )
        heard = [self._voice(self.voices[speaker], rng) for speaker in speakers]
        if "equalizer" in self.effects:
            parts = [
                recording_channel.equalize(
                    part, recording_channel.draw_equalizer(rng, self.sample_rate)
                )
                for part, _ in heard
            ]
            heard = [(part, active_level(part, self.sample_rate)) for part in parts]
        offset = (
            rng.uniform(*self.snr_db)
            / 2
            * rng.choice([-1, 1])
            * (-1.0) ** np.arange(self.n_speakers)
        )
        sources = np.stack(
            [
                part * 10 ** ((MEAN_LEVEL_DB + louder - level) / 20)
                for (part, level), louder in zip(heard, offset, strict=True)
            ]
        )
        if "polarity" in self.effects:
            sources *= recording_channel.draw_polarity(rng, self.n_speakers)[:, None]
        noise = np.zeros(self.n_samples)
        if "floor" in self.effects:
            noise = recording_channel.draw_floor(rng, self.n_samples, MEAN_LEVEL_DB)
        peak = max(np.abs(sources).max(), np.abs(sources.sum(0) + noise).max())
        gain = np.float32(min(1.0, MOST_PEAK / peak))
        noise = (noise * gain).astype(np.float32) if "floor" in self.effects else None
        return Crop((sources * gain).astype(np.float32), speakers, seed, noise)

    def _voice(
        self, utterances: list[Utterance], rng: np.random.Generator
    ) -> tuple[np.ndarray, float]:
        """Part of one of a speaker's utterances, float64 [n_samples], and its active level in dB.

        It is no pause: of a few places the first within 15 dB of the utterance's own level, or else the loudest.
        """
        row = utterances[rng.integers(len(utterances))]
        wanted = whole_level(row.path) - EMPTY_DB
        loudest = np.zeros(self.n_samples), -np.inf
        for k in range(self.MOST_TRIES):
            part = self._part(row.path, rng.uniform(), float(rng.choice(self.speeds)))
            loudest = max(
                loudest, (part, active_level(part, self.sample_rate)), key=lambda found: found[1]
            )
            if loudest[1] > wanted or (k + 1 >= self.TRIES and np.isfinite(loudest[1])):
                return loudest
        raise SpikeSepError(
            f"{row.path}: hardly anything is heard in it; remove it from the table of utterances"
        )

    def _part(self, path: Path, place: float, speed: float) -> np.ndarray:
        """The crop that begins at the share `place` of where it may, played at `speed`."""

        def bounds(length: int, rate: int) -> tuple[int, int]:
            wanted = int(np.ceil(self.n_samples * round(rate * speed) / self.sample_rate))
            start = int(place * (max(0, length - wanted) + 1))
            return start, wanted

        samples, rate = read_part(path, bounds)
        part = resample(samples.astype(np.float64), round(rate * speed), self.sample_rate)[
            : self.n_samples
        ]
        return np.pad(part, (0, self.n_samples - len(part)))


def _shares(voices: Mapping[str, Sequence[Utterance]], by_amount: float) -> np.ndarray | None:
    """Probability of each speaker: by amount of speech, then the same total for women and for men.

    None where all are equally likely.
    """
    share = np.array([sum(row.duration for row in rows) for rows in voices.values()]) ** by_amount
    sexes = np.array([rows[0].sex for rows in voices.values()])
    known = np.isin(sexes, ("f", "m"))
    total, groups = share[known].sum(), [sexes == sex for sex in ("f", "m") if (sexes == sex).any()]
    for group in groups:
        share[group] *= total / len(groups) / share[group].sum()
    return None if np.ptp(share) < 1e-9 * share.max() else share / share.sum()


@cache
def whole_level(path: Path) -> float:
    """Active level of a recording, dB; it is listened to once.

    Raises:
        SpikeSepError: it is silent, or cannot be read.
    """
    samples, rate = read_part(path, lambda length, _: (0, length))
    level = active_level(samples, rate)
    if not np.isfinite(level):
        raise SpikeSepError(f"{path}: is silent; remove it from the table of utterances")
    return level
