"""Libri2Mix by LibriMix's procedure (Cosentino et al., 2020), and mixtures of more speakers.

The loudness of voices by ITU-R BS.1770 is uniform in -33..-25 LUFS. Gains are stored in the format
of LibriMix's metadata. WHAM noise may be added, 5 dB lower.
"""

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import json_file_equals, write_json
from spikesep.separation.audio.files import read_audio_at, read_channels
from spikesep.separation.audio.resampling import resample
from spikesep.separation.config import MixingConfig, RecipeConfig
from spikesep.separation.data.corpora.mixture_lists import (
    MixtureList,
    MixtureListRow,
    describe_mixture_list,
    read_mixture_list,
    read_mixture_lists,
    write_librimix_metadata,
)
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.mixing.plan import PlannedMixture, Version, plan_from_list
from spikesep.separation.data.mixing.wsj0mix import fit_lengths
from spikesep.workers import Workers

MODES: tuple[str, ...] = ("min", "max")
CORPUS_RATE = 16000
LOUDNESS = (-33.0, -25.0)
"""Range of the loudness of voices, in LUFS."""
NOISE_BELOW = 5.0
"""Difference between the loudness ranges of voices and of noise, in dB."""
PEAK = 0.9
CROSSFADE_SECONDS = 0.5
METADATA = "metadata"
"""Folder of drawn metadata, below the data folder."""
MAX_FRUITLESS_DECKS = 20


def check_settings(config: MixingConfig, counts: Sequence[int]) -> None:
    """Accept all settings; any number of speakers and any rates are supported."""


def signal_names(n_speakers: int, noisy: bool) -> tuple[str, ...]:
    """Return `mix_clean`, `s1`, `s2`, or with noise `mix_both`, `s1`, `s2`, `noise`."""
    sources = tuple(f"s{k + 1}" for k in range(n_speakers))
    return ("mix_both", *sources, "noise") if noisy else ("mix_clean", *sources)


def output_folder(data: Path, n_speakers: int, version: Version, split: str) -> Path:
    """Return `data/Libri2Mix/wav8k/min/<split>`."""
    return data / f"Libri{n_speakers}Mix" / version.label / split


def plan_set(
    table: list[Utterance], split: str, n: int, recipe: RecipeConfig, data: Path, workers: Workers
) -> tuple[list[PlannedMixture], list[str]]:
    """Plan the mixtures of given metadata, or of metadata drawn from the seed.

    Drawn metadata is stored in `data/metadata`.

    Returns:
        The plan, and notices for the user.

    Raises:
        SpikeSepError: If the metadata is invalid, or recordings cannot be read.
    """
    noise = Path(recipe.corpus.noise) if recipe.corpus.noise else None
    n_speakers, folder = recipe.mixing.n_speakers, recipe.corpus.lists
    if folder:
        subsets = {row.path.parts[-4] for row in table}
        mixture_lists = read_mixture_lists(folder, n_speakers, subsets)[0][split]
        remark = ""
    else:
        candidates = [row for row in table if row.split == split]
        mixture_lists = [_drawn_list(candidates, split, n, recipe, data, workers)]
        remark = ", drawn: not LibriMix's own"
    plan = [planned for _, rows in mixture_lists for planned in plan_from_list(rows, table, noise)]
    return plan, [describe_mixture_list(*each) + remark for each in mixture_lists]


def _drawn_list(
    table: list[Utterance], split: str, n: int, recipe: RecipeConfig, data: Path, workers: Workers
) -> MixtureList:
    """Return drawn metadata of a split; draw it unless that was done with the same settings."""
    n_speakers, noise = recipe.mixing.n_speakers, recipe.corpus.noise
    path = data / METADATA / f"libri{n_speakers}mix_{split}.csv"
    settings = {
        "seed": recipe.seed,
        "n": n,
        "utterances": [row.utt_id for row in table],
        "noise": str(Path(noise)) if noise else "",
    }
    stamp = path.with_suffix(".json")
    if not (path.exists() and json_file_equals(stamp, settings)):
        stamp.unlink(missing_ok=True)
        rows = draw_metadata(
            table,
            split,
            n,
            n_speakers=n_speakers,
            seed=recipe.seed,
            noise=Path(noise) if noise else None,
            workers=workers,
        )
        write_librimix_metadata(path, rows)
        write_json(stamp, settings)
    return path, read_mixture_list(path)


@dataclass(frozen=True)
class _Draw:
    """A mixture that was drawn, before its gains are computed.

    Attributes:
        utterances: One per speaker.
        loudness_targets: Target loudness of the utterances, in LUFS.
        noise: Noise recording, if any.
        noise_target: Target loudness of the noise, in LUFS.
    """

    utterances: list[Utterance]
    loudness_targets: list[float]
    noise: Path | None
    noise_target: float


def draw_metadata(
    table: Sequence[Utterance],
    split: str,
    n: int,
    *,
    n_speakers: int,
    seed: int,
    noise: Path | None,
    workers: Workers,
) -> list[MixtureListRow]:
    """Draw mixtures and compute their gains.

    All utterances are used before one is repeated, in mixtures of different speakers.

    Args:
        table: Utterances of the split.
        split: Name of the split.
        n: Number of mixtures; 0 uses each utterance once.
        n_speakers: Speakers per mixture.
        seed: Seed of the draw.
        noise: Folder of WHAM noise, or None.
        workers: Workers that measure loudness.

    Raises:
        SpikeSepError: If there are too few speakers, utterances or noise files, or a recording
            cannot be used.
    """
    rng = random.Random(f"librimix {split} {seed}")
    noise_files = sorted((noise / split).glob("*.wav")) if noise else []
    if noise and not noise_files:
        raise SpikeSepError(
            f"--corpus.noise: no wav file in {noise / split}; give the folder wham_noise of WHAM"
        )
    draws = []
    for utterances in _deal(table, n, n_speakers, rng):
        targets = [rng.uniform(*LOUDNESS) for _ in utterances]
        added = rng.choice(noise_files) if noise_files else None
        noise_target = rng.uniform(*(bound - NOISE_BELOW for bound in LOUDNESS))
        draws.append(_Draw(utterances, targets, added, noise_target))
    paths = sorted({row.path for draw in draws for row in draw.utterances})
    measured = workers.map(_loudness_and_peak, paths, f"{split}: loudness")
    voices = dict(zip(paths, measured, strict=True))
    items = [(draw, [voices[row.path] for row in draw.utterances]) for draw in draws]
    gains = workers.map(_gains, items, f"{split}: gains")
    return [_row(draw, own) for draw, own in zip(draws, gains, strict=True)]


def _row(draw: _Draw, gains: list[float]) -> MixtureListRow:
    n = len(draw.utterances)
    return MixtureListRow(
        "drawn",
        name="_".join(row.path.stem for row in draw.utterances),
        recordings=tuple("/".join(row.path.parts[-4:]) for row in draw.utterances),
        gains=tuple(gains[:n]),
        noise=f"{draw.noise.parent.name}/{draw.noise.name}" if draw.noise else "",
        noise_gain=gains[-1] if draw.noise else 0.0,
    )


def _gains(item: tuple[_Draw, list[tuple[float, float]]]) -> list[float]:
    """Compute gains, as factors, of sources and noise for their target loudness.

    A source that would clip is scaled to a peak of 0.9 instead. If the peak of the full-length sum
    exceeds 0.9, all are scaled down. `item` is the draw, and loudness and peak of each utterance.
    """
    draw, measured = item
    measured, targets = list(measured), list(draw.loudness_targets)
    signals = []
    if draw.noise:
        signals = [read_audio_at(row.path, CORPUS_RATE) for row in draw.utterances]
        signals.append(_read_noise(draw.noise, max(map(len, signals))))
        peak = float(np.abs(signals[-1]).max())
        measured.append((_loudness(signals[-1], draw.noise), peak))
        targets.append(draw.noise_target)
    gains = []
    for (loudness, peak), target in zip(measured, targets, strict=True):
        gain = 10 ** ((target - loudness) / 20)
        gains.append(gain if gain * peak < 1 else PEAK / peak)
    if sum(gain * peak for gain, (_, peak) in zip(gains, measured, strict=True)) <= PEAK:
        return gains
    signals = signals or [read_audio_at(row.path, CORPUS_RATE) for row in draw.utterances]
    scaled = [gain * signal for gain, signal in zip(gains, signals, strict=True)]
    peak = float(np.abs(sum(fit_lengths(scaled, "max"))).max())
    return [gain * min(1.0, PEAK / peak) for gain in gains]


def load_recording(path: Path, rates: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Read a recording as float32 at 16 kHz.

    Gains are applied before resampling; rounding makes the order matter.

    Raises:
        SpikeSepError: If the recording cannot be read, or is not at 16 kHz.
    """
    return {CORPUS_RATE: read_audio_at(path, CORPUS_RATE)}


def mix(
    planned: PlannedMixture, voices: Sequence[dict], version: Version
) -> tuple[dict[str, np.ndarray], tuple[float, ...]]:
    """Return float32 samples by signal name, as LibriMix passes them to libsndfile; gains, and 1.

    libsndfile clips a mixture that exceeds full scale, as in LibriMix.
    """
    signals = [
        np.float32(gain) * voice[CORPUS_RATE]
        for gain, voice in zip(planned.gains, voices, strict=True)
    ]
    if planned.noise:
        noise = _read_noise(planned.noise, max(map(len, signals)))
        signals.append(np.float32(planned.noise_gain) * noise)
    resampled = [resample(signal, CORPUS_RATE, version.rate) for signal in signals]
    signals = fit_lengths(resampled, version.mode)
    names = signal_names(len(voices), planned.noise is not None)
    first, *others = signals
    mixture = sum(others, start=first)
    return dict(zip(names, [mixture, *signals], strict=True)), (*planned.gains, 1.0)


def write_lists(
    data: Path,
    split: str,
    plan: Sequence[PlannedMixture],
    version: Version,
    gains: Sequence[tuple[float, ...]],
) -> bool:
    """Do nothing, as the metadata is already written, and return False."""
    return False


def _deal(
    table: Sequence[Utterance], n: int, n_speakers: int, rng: random.Random
) -> list[list[Utterance]]:
    if len({row.speaker for row in table}) < n_speakers:
        raise SpikeSepError(
            f"{len(table)} utterances of a set are of fewer than {n_speakers} speakers; add voices"
        )
    mixtures: list[list[Utterance]] = []
    met: set[frozenset[str]] = set()
    fruitless = 0
    while not n or len(mixtures) < n:
        deck = sorted(table, key=lambda row: row.utt_id)
        rng.shuffle(deck)
        before = len(mixtures)
        while (chosen := _draw(deck, n_speakers)) and not (n and len(mixtures) == n):
            key = frozenset(row.utt_id for row in chosen)
            if key not in met:
                met.add(key)
                mixtures.append(chosen)
        fruitless = 0 if len(mixtures) > before else fruitless + 1
        if not n:
            break
        if fruitless == MAX_FRUITLESS_DECKS:
            raise SpikeSepError(
                f"{len(table)} utterances do not give {n} different mixtures; ask for fewer"
            )
    return mixtures


def _draw(deck: list[Utterance], n_speakers: int) -> list[Utterance] | None:
    """Remove the last utterance from the deck, and the last ones of other speakers.

    Returns None, and removes nothing, if there are too few speakers.
    """
    chosen: dict[str, int] = {}
    for k in range(len(deck) - 1, -1, -1):
        if deck[k].speaker not in chosen:
            chosen[deck[k].speaker] = k
            if len(chosen) == n_speakers:
                return [deck.pop(k) for k in chosen.values()]  # last first, so indices stay valid
    return None


def _loudness_and_peak(path: Path) -> tuple[float, float]:
    samples = read_audio_at(path, CORPUS_RATE)
    return _loudness(samples, path), float(np.abs(samples).max())


def _loudness(samples: np.ndarray, path: Path) -> float:
    """Measure the integrated loudness in LUFS."""
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


def _read_noise(path: Path, length: int) -> np.ndarray:
    """Read `length` samples of the first channel, float32; repeat a shorter file with crossfades.

    Raises:
        SpikeSepError: If the file has another rate than 16 kHz, or is too short to be repeated.
    """
    channels, rate = read_channels(path)
    if rate != CORPUS_RATE:
        raise SpikeSepError(
            f"{path}: is at {rate} Hz, {CORPUS_RATE} are needed; give the 16 kHz noise of WHAM"
        )
    noise = extended = channels[0]
    half = int(CROSSFADE_SECONDS * CORPUS_RATE)
    fade = np.hanning(2 * half + 1)[: half + 1]
    if len(noise) <= len(fade) and len(noise) < length:
        raise SpikeSepError(
            f"{path}: is shorter than {CROSSFADE_SECONDS} s; remove it from the noise"
        )
    while len(extended) < length:
        seam = extended[-len(fade) :] * fade[::-1] + noise[: len(fade)] * fade
        extended = np.concatenate([extended[: -len(fade)], seam, noise[len(fade) :]])
    return extended[:length].astype(np.float32)
