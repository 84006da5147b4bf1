"""Two-speaker mixtures of any corpus, balanced in speakers and sexes.

The plan follows from the table of utterances and a seed. It defines how loud each voice is and
which part of a long utterance is heard.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import write_if_changed
from spikesep.separation.audio.files import read_audio, to_pcm16
from spikesep.separation.audio.levels import active_level
from spikesep.separation.config import MixingConfig, RecipeConfig
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.mixing.plan import PlannedMixture, Version
from spikesep.workers import Workers

MODES: tuple[str, ...] = ("cut",)
MEAN_LEVEL_DB = -25.0
"""Mean active speech level of the two voices, in dB of full scale."""
MAX_PEAK = 0.9
PAUSE_DB = 15.0
"""A segment is a pause if its active level is lower than the utterance's by this much."""
POLARITY_SECONDS = 15.0
"""Length of the beginning of a recording that is used to detect its polarity."""


def check_settings(config: MixingConfig, counts: Sequence[int]) -> None:
    """Check the settings of this procedure.

    Args:
        config: The settings.
        counts: Number of mixtures in each set.

    Raises:
        SpikeSepError: If there are more than two speakers or one rate, no mixtures, or a value is
            out of range.
    """
    low, high = config.snr_db
    rate = config.rates_hz[0]
    rules = {
        f"--mixing.n_speakers {config.n_speakers}: the balanced procedure mixes two; "
        "set --mixing.procedure wsj0mix or librimix": config.n_speakers == 2,
        f"--mixing.rates: {', '.join(config.rates)}; the balanced procedure makes one": len(
            config.rates
        )
        == 1,
        "--mixing.n_train, n_closed, n_open: 0 mixtures; ask for at least one": min(counts) >= 1,
        f"--mixing.rates: {rate} Hz is too low for speech; 8k is usual": rate >= 1000,
        f"--mixing.max_seconds: {config.max_seconds} s is too short; 4 is usual": config.max_seconds
        >= 0.5,
        f"--mixing.snr_db: {low} to {high} dB is no range; give the lower end first": low <= high,
    }
    for message, satisfied in rules.items():
        if not satisfied:
            raise SpikeSepError(message)


def signal_names(n_speakers: int, noisy: bool) -> tuple[str, ...]:
    """Return `mix`, `s1`, `s2`."""
    return ("mix", *(f"s{k + 1}" for k in range(n_speakers)))


def output_folder(data: Path, n_speakers: int, version: Version, split: str) -> Path:
    """Return `data/wav/<split>`."""
    return data / "wav" / split


def plan_set(
    table: list[Utterance], split: str, n: int, recipe: RecipeConfig, data: Path, workers: Workers
) -> tuple[list[PlannedMixture], list[str]]:
    """Plan mixtures with the polarity of the recipe; there are no notices.

    Raises:
        SpikeSepError: See `plan_mixtures`.
    """
    plan = plan_mixtures(table, split, n, recipe.mixing, recipe.seed)
    return with_polarity(plan, recipe.mixing.polarity, workers, split), []


def with_polarity(
    plan: list[PlannedMixture], polarity: str, workers: Workers, title: str
) -> list[PlannedMixture]:
    """Give each voice of a plan a sign, so that all pairs have the same or opposite polarity.

    Args:
        plan: Planned mixtures.
        polarity: See `MixingConfig`.
        workers: Workers that detect the polarity of each recording.
        title: Title of the progress bar.
    """
    if polarity == "as_recorded":
        return plan
    paths = sorted({row.path for planned in plan for row in planned.utterances})
    detected = workers.map(_detect_polarity, paths, f"{title}: polarity")
    signs = dict(zip(paths, detected, strict=True))
    flips = (1, -1 if polarity == "opposite" else 1)
    return [
        replace(
            planned,
            signs=tuple(
                signs[row.path] * flip for row, flip in zip(planned.utterances, cycle(flips))
            ),
        )
        for planned in plan
    ]


def _detect_polarity(path: Path) -> int:
    from spikesep.separation.audio.polarity import recording_polarity  # imports librosa

    return recording_polarity(path, POLARITY_SECONDS)


def plan_mixtures(
    table: list[Utterance], split: str, n: int, config: MixingConfig, seed: int
) -> list[PlannedMixture]:
    """Plan `n` mixtures of two different speakers from one split of the table.

    Mixtures of same and of different sex alternate as far as there are voices for both. The first
    speaker is always one of the least used, and so is the partner among those of the required sex.
    Which of them is louder is random. All utterances of a speaker are used before one is repeated.
    Both utterances are cut to the shorter one and to `max_seconds`.

    Raises:
        SpikeSepError: If there are fewer than two speakers, or a setting is invalid.
    """
    check_settings(config, [n])
    rng = random.Random(f"mixtures {split} {seed}")
    voices: dict[str, list[Utterance]] = defaultdict(list)
    for row in sorted(table, key=lambda row: row.utt_id):
        if row.split == split:
            voices[row.speaker].append(row)
    sexes = {speaker: rows[0].sex for speaker, rows in voices.items()}
    if len(sexes) < 2:
        raise SpikeSepError(
            f"split {split}: {len(sexes)} speakers are listed, two are needed; "
            "add voices to the corpus"
        )
    decks, met, plan = defaultdict(list), defaultdict(set), []
    for number, (first, second) in enumerate(_draw_pairs(sexes, n, rng)):
        one = _deal(decks[first], voices[first], set(), rng)
        other = _deal(decks[second], voices[second], met[one.utt_id], rng)
        met[one.utt_id].add(other.utt_id)
        met[other.utt_id].add(one.utt_id)
        plan.append(_plan_one(f"{first}_{second}-{number:05d}", (one, other), config, rng))
    return sorted(plan, key=lambda planned: planned.utt_id)


def load_recording(path: Path, rates: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Read a recording at each rate (Hz) without its mean.

    Some recorders leave an offset that is as loud as the voice.

    Raises:
        SpikeSepError: If the recording cannot be read.
    """
    voice = {rate: read_audio(path, rate) for rate in rates}
    return {rate: samples - samples.mean() for rate, samples in voice.items()}


def mix(
    planned: PlannedMixture, voices: Sequence[dict], version: Version
) -> tuple[dict[str, np.ndarray], tuple[float, ...]]:
    """Return int16 samples by signal name.

    The gains are zeros, as the levels of the cut voices are not part of the plan.
    """
    rate = version.rate
    segments = [
        sign * cut_speech(row, voice[rate], start, planned.samples, rate)
        for row, voice, start, sign in zip(
            planned.utterances, voices, planned.starts, planned.signs or (1, 1), strict=True
        )
    ]
    first, second = segments
    snr_db = planned.gains[0] - planned.gains[1]
    first, second = mix_at_snr(first, second, snr_db, rate)
    signals = dict(zip(signal_names(2, False), (first + second, first, second), strict=True))
    return {name: to_pcm16(samples) for name, samples in signals.items()}, (0.0, 0.0, 0.0)


def write_lists(
    data: Path,
    split: str,
    plan: Sequence[PlannedMixture],
    version: Version,
    gains: Sequence[tuple[float, ...]],
) -> bool:
    """Write `mixtures.tsv` into the data directory, which describes each mixture to people.

    A start is the position of a cut, unless a pause there moved it.

    Returns:
        Whether the file was changed.
    """
    lines = ["utt_id\tfirst\tsecond\tfirst_start\tsecond_start\tseconds\tsnr_db"]
    for planned in plan:
        names = (row.utt_id for row in planned.utterances)
        seconds = (
            f"{samples / version.rate:.4f}" for samples in (*planned.starts, planned.samples)
        )
        snr_db = round(planned.gains[0] - planned.gains[1], 3)
        lines.append("\t".join([planned.utt_id, *names, *seconds, str(snr_db)]))
    content = "".join(f"{line}\n" for line in lines)
    return write_if_changed(data / split / "mixtures.tsv", content.encode())


def mix_at_snr(
    first: np.ndarray, second: np.ndarray, snr_db: float, sample_rate: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scale two voices [T] so that their active levels differ by `snr_db`, around -25 dB.

    If a voice or the sum would exceed 0.9 of full scale, both voices are scaled down. They are
    rounded to 16-bit steps, so that their sum is exact in a 16-bit file.
    """
    levels = (MEAN_LEVEL_DB + snr_db / 2, MEAN_LEVEL_DB - snr_db / 2)
    scaled = [
        voice * 10 ** ((level - active_level(voice, sample_rate)) / 20)
        for voice, level in zip((first, second), levels, strict=True)
    ]
    peak = max(np.abs(signal).max() for signal in (*scaled, sum(scaled)))
    gain = min(1.0, (MAX_PEAK - 1 / 32768) / peak)  # rounding may add a step
    first, second = (
        np.round(voice * gain * 32768).astype(np.float32) / np.float32(32768) for voice in scaled
    )
    return first, second


def _draw_pairs(sexes: dict[str, str], n: int, rng: random.Random) -> list[tuple[str, str]]:
    """Draw `n` ordered pairs of speakers, balanced in speakers and in same and different sex."""
    used, met = Counter(), Counter()
    pairs = []
    for number in range(n):
        first = _draw_rarest(sexes, used.__getitem__, rng)
        partners = [speaker for speaker in sexes if speaker != first]
        same = [speaker for speaker in partners if sexes[speaker] == sexes[first]]
        different = [speaker for speaker in partners if sexes[speaker] != sexes[first]]
        wanted = (same, different)[number % 2] or partners
        second = _draw_rarest(
            wanted, lambda s, first=first: (used[s], met[frozenset((first, s))]), rng
        )
        used.update((first, second))
        met[frozenset((first, second))] += 1
        pairs.append((first, second) if rng.random() < 0.5 else (second, first))
    return pairs


def _draw_rarest(names: Iterable[str], count: Callable, rng: random.Random) -> str:
    """Draw one of the names with the lowest count."""
    counts = {name: count(name) for name in names}
    lowest = min(counts.values())
    return rng.choice([name for name in counts if counts[name] == lowest])


def _deal(
    deck: list[Utterance], rows: list[Utterance], met: set[str], rng: random.Random
) -> Utterance:
    """Remove the next utterance from a deck that is not in `met`; refill an empty deck first."""
    if not deck:
        deck.extend(rows)
        rng.shuffle(deck)
    index = next((i for i, row in enumerate(deck) if row.utt_id not in met), 0)
    return deck.pop(index)


def _plan_one(
    utt_id: str, utterances: tuple[Utterance, Utterance], config: MixingConfig, rng: random.Random
) -> PlannedMixture:
    rate = config.rates_hz[0]
    lengths = [int(row.duration * rate) for row in utterances]
    samples = min(*lengths, round(config.max_seconds * rate))
    starts = tuple(rng.randint(0, length - samples) for length in lengths)
    snr_db = round(rng.uniform(*config.snr_db), 3)
    return PlannedMixture(utt_id, utt_id, utterances, (snr_db / 2, -snr_db / 2), starts, samples)


def cut_speech(
    row: Utterance, samples: np.ndarray, start: int, length: int, sample_rate: int
) -> np.ndarray:
    """Cut a segment of `length` samples that starts at `start`.

    If it is a pause, the start moves on by half a segment at a time, around the end if necessary.

    Raises:
        SpikeSepError: If the recording is shorter than listed, silent, or only pauses.
    """
    room = len(samples) - length
    if room < 0:
        raise SpikeSepError(
            f"{row.path}: is shorter than its {row.duration:g} s in the table; "
            "list the corpus again"
        )
    whole = active_level(samples, sample_rate)
    if not np.isfinite(whole):
        raise SpikeSepError(f"{row.path}: is silent; remove it from the table of utterances")
    for step in range(2 * room // length + 2):
        position = (min(start, room) + step * length // 2) % (room + 1)
        segment = samples[position : position + length]
        if active_level(segment, sample_rate) > whole - PAUSE_DB:
            return segment
    raise SpikeSepError(
        f"{row.path}: no part of {length / sample_rate:g} s holds speech; remove it from the table"
    )
