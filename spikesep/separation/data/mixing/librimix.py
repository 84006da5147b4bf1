"""Libri2Mix by LibriMix's procedure (Cosentino et al., 2020), and mixtures of more speakers likewise: loudness by
ITU-R BS.1770 uniform in -33..-25 LUFS, gains kept as LibriMix's metadata, optionally with WHAM noise 5 dB lower.
"""

import random
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import is_json, write_json
from spikesep.separation.audio.files import read_audio_at, read_channels
from spikesep.separation.audio.resampling import resample
from spikesep.separation.config import MixingConfig, RecipeConfig
from spikesep.separation.data.corpora.mixture_lists import (
    ListRow,
    describe_list,
    read_list,
    read_lists,
    write_metadata,
)
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.mixing.plan import PlannedMixture, Version, plan_of_rows
from spikesep.separation.data.mixing.wsj0mix import fit_lengths
from spikesep.workers import Workers

MODES = ("min", "max")
CORPUS_RATE = 16000
LOUDNESS = (-33.0, -25.0)
"""LUFS; of noise 5 less."""
NOISE_BELOW = 5.0
PEAK = 0.9
CROSSFADE_SECONDS = 0.5
METADATA = "metadata"


def check(config: MixingConfig, counts: Sequence[int]) -> None:
    """Refuse nothing: any number of speakers and any rates will do."""


def parts(n_speakers: int, noisy: bool) -> tuple[str, ...]:
    """`mix_clean`, `s1`, `s2`; with noise `mix_both`, `s1`, `s2`, `noise`."""
    sources = tuple(f"s{k + 1}" for k in range(n_speakers))
    return ("mix_both", *sources, "noise") if noisy else ("mix_clean", *sources)


def folder(data: Path, n_speakers: int, version: Version, split: str) -> Path:
    """`Libri2Mix/wav8k/min/tr`."""
    return data / f"Libri{n_speakers}Mix" / version.label / split


def plan(
    table: list[Utterance], split: str, n: int, recipe: RecipeConfig, data: Path, workers: Workers
) -> tuple[list[PlannedMixture], list[str]]:
    """The mixtures of LibriMix's metadata: given, or drawn from the seed and kept in `data/metadata`.

    Returns:
        the plan, and notices for the user.

    Raises:
        SpikeSepError: metadata that cannot be used, or recordings that cannot be read.
    """
    noise = Path(recipe.corpus.noise) if recipe.corpus.noise else None
    n_speakers, lists = recipe.mixing.n_speakers, recipe.corpus.lists
    if lists:
        found = read_lists(lists, n_speakers, {row.path.parts[-4] for row in table})[0][split]
    else:
        path = data / METADATA / f"libri{n_speakers}mix_{split}.csv"
        rows = [row for row in table if row.split == split]
        settings = {
            "seed": recipe.seed,
            "n": n,
            "utterances": [row.utt_id for row in rows],
            "noise": str(noise or ""),
        }
        stamp = path.with_suffix(".json")
        if not (path.exists() and is_json(stamp, settings)):
            stamp.unlink(missing_ok=True)
            write_metadata(
                path, draw_metadata(rows, split, n, n_speakers, recipe.seed, noise, workers)
            )
            write_json(stamp, settings)
        found = [(path, read_list(path))]
    plan = [planned for _, rows in found for planned in plan_of_rows(rows, table, noise)]
    return plan, [
        describe_list(*each) + ("" if lists else ", drawn: not LibriMix's own") for each in found
    ]


def draw_metadata(
    table: Sequence[Utterance],
    split: str,
    n: int,
    n_speakers: int,
    seed: int,
    noise: Path | None,
    workers: Workers,
) -> list[ListRow]:
    """Choose `n` mixtures (0 for one use of each utterance), and measure their gains.

    Utterances are dealt like cards, to mixtures of different speakers; all of them before any again.
    """
    chance = random.Random(f"librimix {split} {seed}")
    noises = sorted((noise / split).glob("*.wav")) if noise else []
    if noise and not noises:
        raise SpikeSepError(
            f"--corpus.noise: no wav file in {noise / split}; give the folder wham_noise of WHAM"
        )
    items = []
    for chosen in _deal(table, n, n_speakers, chance):
        targets = [chance.uniform(*LOUDNESS) for _ in chosen]
        added = chance.choice(noises) if noises else None
        items.append((chosen, targets, added, chance.uniform(*(x - NOISE_BELOW for x in LOUDNESS))))
    paths = sorted({row.path for chosen, *_ in items for row in chosen})
    heard = dict(
        zip(paths, workers.map(_loudness_and_peak, paths, f"{split}: loudness"), strict=True)
    )
    items = [(chosen, [heard[row.path] for row in chosen], *others) for chosen, *others in items]
    rows = []
    for (chosen, _, _, added, _), gains in zip(
        items, workers.map(_gains, items, f"{split}: gains"), strict=True
    ):
        name = "_".join(row.path.stem for row in chosen)
        recordings = tuple("/".join(row.path.parts[-4:]) for row in chosen)
        where = f"{added.parent.name}/{added.name}" if added else ""
        rows.append(
            ListRow(
                "drawn",
                name,
                recordings,
                tuple(gains[: len(chosen)]),
                where,
                gains[-1] if added else 0.0,
            )
        )
    return rows


def _gains(item: tuple) -> list[float]:
    """Amplitude gains of sources and noise for target loudnesses in LUFS.

    A source that would clip is scaled to a peak of 0.9 instead; if the sum of all, in full length, passes 0.9, so are
    all. Where the sources' peaks together stay below, no sum has to be made.
    """
    chosen, heard, targets, added, noise_target = item
    heard, targets = list(heard), list(targets)
    signals = []
    if added:
        signals = [read_audio_at(row.path, CORPUS_RATE) for row in chosen]
        signals.append(_noise(added, max(map(len, signals))))
        heard.append((_loudness(signals[-1], added), float(np.abs(signals[-1]).max())))
        targets.append(noise_target)
    gains = []
    for (loudness, peak), target in zip(heard, targets, strict=True):
        gain = 10 ** ((target - loudness) / 20)
        gains.append(gain if gain * peak < 1 else PEAK / peak)
    if sum(gain * peak for gain, (_, peak) in zip(gains, heard, strict=True)) <= PEAK:
        return gains
    signals = signals or [read_audio_at(row.path, CORPUS_RATE) for row in chosen]
    scaled = [gain * signal for gain, signal in zip(gains, signals, strict=True)]
    peak = float(np.abs(sum(fit_lengths(scaled, "max"))).max())
    return [gain * min(1.0, PEAK / peak) for gain in gains]


def load(path: Path, rates: tuple[int, ...]) -> dict:
    """The recording as it is, float32 at 16 kHz: gains go before resampling, and rounding shows the order.

    Raises:
        SpikeSepError: it cannot be read, or is not at 16 kHz.
    """
    return {CORPUS_RATE: read_audio_at(path, CORPUS_RATE)}


def mix(
    planned: PlannedMixture, voices: Sequence[dict], version: Version
) -> tuple[dict[str, np.ndarray], tuple]:
    """Samples float32 by part, as LibriMix hands them to libsndfile; the gains, and 1.

    A mixture is clipped where it passes full scale, as LibriMix's own.
    """
    signals = [
        np.float32(gain) * voice[CORPUS_RATE]
        for gain, voice in zip(planned.gains, voices, strict=True)
    ]
    if planned.noise:
        signals.append(
            np.float32(planned.noise_gain) * _noise(planned.noise, max(map(len, signals)))
        )
    signals = fit_lengths(
        [resample(signal, CORPUS_RATE, version.rate) for signal in signals], version.mode
    )
    names = parts(len(voices), planned.noise is not None)
    return dict(zip(names, [sum(signals), *signals], strict=True)), (*planned.gains, 1.0)


def finish(
    data: Path, split: str, plan: Sequence[PlannedMixture], version: Version, gains: Sequence[tuple]
) -> bool:
    """Nothing: the metadata is there already."""
    return False


def _deal(
    table: Sequence[Utterance], n: int, n_speakers: int, chance: random.Random
) -> list[list[Utterance]]:
    if len({row.speaker for row in table}) < n_speakers:
        raise SpikeSepError(
            f"{len(table)} utterances of a set are of fewer than {n_speakers} speakers; add voices"
        )
    mixtures: list[list[Utterance]] = []
    met: set[frozenset[str]] = set()
    tries = 0
    while not n or len(mixtures) < n:
        deck = sorted(table, key=lambda row: row.utt_id)
        chance.shuffle(deck)
        before = len(mixtures)
        while (chosen := _draw(deck, n_speakers)) and not (n and len(mixtures) == n):
            key = frozenset(row.utt_id for row in chosen)
            if key not in met:
                met.add(key)
                mixtures.append(chosen)
        tries = 0 if len(mixtures) > before else tries + 1
        if not n:
            break
        if tries == 20:
            raise SpikeSepError(
                f"{len(table)} utterances do not give {n} different mixtures; ask for fewer"
            )
    return mixtures


def _draw(deck: list[Utterance], n_speakers: int) -> list[Utterance] | None:
    """Take the top card and those below it of other speakers; None where there are none."""
    chosen: dict[str, int] = defaultdict(int)
    for k in range(len(deck) - 1, -1, -1):
        if deck[k].speaker not in chosen:
            chosen[deck[k].speaker] = k
            if len(chosen) == n_speakers:
                return [
                    deck.pop(k) for k in chosen.values()
                ]  # from the top down: places below stay
    return None


def _loudness_and_peak(path: Path) -> tuple[float, float]:
    samples = read_audio_at(path, CORPUS_RATE)
    return _loudness(samples, path), float(np.abs(samples).max())


def _loudness(samples: np.ndarray, path: Path) -> float:
    """Integrated loudness, LUFS."""
    import pyloudnorm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loudness = pyloudnorm.Meter(CORPUS_RATE).integrated_loudness(samples)
        except ValueError as error:
            raise SpikeSepError(
                f"{path}: is too short for its loudness; set --corpus.min_seconds to 3"
            ) from error
    if not np.isfinite(loudness):
        raise SpikeSepError(f"{path}: is silent; remove it from the table of utterances")
    return float(loudness)


def _noise(path: Path, length: int) -> np.ndarray:
    """`length` samples of the first channel, float32; a shorter recording is repeated, one end faded into the other."""
    channels, rate = read_channels(path)
    if rate != CORPUS_RATE:
        raise SpikeSepError(
            f"{path}: is at {rate} Hz, {CORPUS_RATE} are needed; give the 16 kHz noise of WHAM"
        )
    noise = extended = channels[0]
    fade = np.hanning(2 * int(CROSSFADE_SECONDS * CORPUS_RATE) + 1)[
        : int(CROSSFADE_SECONDS * CORPUS_RATE) + 1
    ]
    if len(noise) <= len(fade) and len(noise) < length:
        raise SpikeSepError(
            f"{path}: is shorter than {CROSSFADE_SECONDS} s; remove it from the noise"
        )
    while len(extended) < length:
        seam = extended[-len(fade) :] * fade[::-1] + noise[: len(fade)] * fade
        extended = np.concatenate([extended[: -len(fade)], seam, noise[len(fade) :]])
    return extended[:length].astype(np.float32)
