"""Two-speaker mixtures of any corpus: a plan, made from the table of utterances and a seed, balances speakers and
sexes, and says how loud each voice is and which part of a long utterance is heard.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import keep_content
from spikesep.separation.audio.files import read_audio, read_part, to_pcm16
from spikesep.separation.audio.levels import active_level
from spikesep.separation.config import MixingConfig, RecipeConfig
from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.mixing.plan import PlannedMixture, Version
from spikesep.workers import Workers

MODES = ("cut",)
MEAN_LEVEL_DB = -25.0
MOST_PEAK = 0.9
EMPTY_DB = 15.0
POLARITY_SECONDS = 15.0
"""Of a recording are enough to tell its polarity."""


def check(config: MixingConfig, counts: Sequence[int]) -> None:
    """Check the settings of this procedure.

    Args:
        config: the settings.
        counts: of mixtures to be made, a number a set.

    Raises:
        SpikeSepError: more than two speakers or one rate, no mixtures, or a number that makes no sense.
    """
    low, high = config.snr_db
    rate = config.rates_hz[0]
    faults = {
        f"--mixing.n_speakers {config.n_speakers}: the balanced procedure mixes two; "
        "set --mixing.procedure wsj0mix or librimix": config.n_speakers != 2,
        f"--mixing.rates: {', '.join(config.rates)}; the balanced procedure makes one": len(
            config.rates
        )
        != 1,
        "--mixing.n_train, n_closed, n_open: 0 mixtures; ask for at least one": min(counts) < 1,
        f"--mixing.rates: {rate} Hz is too low for speech; 8k is usual": rate < 1000,
        f"--mixing.max_seconds: {config.max_seconds} s is too short; 4 is usual": not config.max_seconds
        >= 0.5,
        f"--mixing.snr_db: {low} to {high} dB is no range; give the lower end first": not low
        <= high,
    }
    for fault, found in faults.items():
        if found:
            raise SpikeSepError(fault)


def parts(n_speakers: int, noisy: bool) -> tuple[str, ...]:
    """`mix`, `s1`, `s2`."""
    return ("mix", *(f"s{k + 1}" for k in range(n_speakers)))


def folder(data: Path, n_speakers: int, version: Version, split: str) -> Path:
    """`wav/tr`."""
    return data / "wav" / split


def plan(
    table: list[Utterance], split: str, n: int, recipe: RecipeConfig, data: Path, workers: Workers
) -> tuple[list[PlannedMixture], list[str]]:
    """`plan_mixtures` by the recipe, with the polarity that it asks for, and no notices."""
    plan = plan_mixtures(table, split, n, recipe.mixing, recipe.seed)
    return with_polarity(plan, recipe.mixing.polarity, workers, split), []


def with_polarity(
    plan: list[PlannedMixture], polarity: str, workers: Workers, title: str
) -> list[PlannedMixture]:
    """Give each voice of the plan a sign, so that all pairs have the same or opposite polarity.

    Args:
        plan: of mixtures.
        polarity: see `MixingConfig`.
        workers: that listen to each recording once.
        title: for the progress bar.
    """
    if polarity == "as_recorded":
        return plan
    paths = sorted({row.path for planned in plan for row in planned.utterances})
    signs = dict(zip(paths, workers.map(_polarity_of, paths, f"{title}: polarity"), strict=True))
    turn = (1, -1 if polarity == "opposite" else 1)
    return [
        replace(
            planned,
            signs=tuple(
                signs[row.path] * sign for row, sign in zip(planned.utterances, turn, strict=True)
            ),
        )
        for planned in plan
    ]


def _polarity_of(path: Path) -> int:
    from spikesep.separation.audio.polarity import polarity  # brings librosa

    def beginning(length: int, rate: int) -> tuple[int, int]:
        return 0, round(POLARITY_SECONDS * rate)

    return polarity(*read_part(path, beginning))


def plan_mixtures(
    table: list[Utterance], split: str, n: int, config: MixingConfig, seed: int
) -> list[PlannedMixture]:
    """Choose `n` mixtures of two different speakers from one split of the table.

    Mixtures of the same and of different sex take turns as far as there are voices for both. The first speaker is
    always one that was used least; its partner too, among those of the wanted sex; who is louder is drawn. A speaker's
    utterances are dealt like cards, all of them before any again. Both are cut to the shorter, and to `max_seconds`.

    Raises:
        SpikeSepError: fewer than two speakers, or a setting that cannot be.
    """
    check(config, [n])
    chance = random.Random(f"mixtures {split} {seed}")
    voices: dict[str, list[Utterance]] = defaultdict(list)
    for row in sorted(table, key=lambda row: row.utt_id):
        if row.split == split:
            voices[row.speaker].append(row)
    sexes = {speaker: rows[0].sex for speaker, rows in voices.items()}
    if len(sexes) < 2:
        raise SpikeSepError(
            f"split {split}: {len(sexes)} speakers are listed, two are needed; add voices to the corpus"
        )
    decks, met, plan = defaultdict(list), defaultdict(set), []
    for number, (first, second) in enumerate(_draw_pairs(sexes, n, chance)):
        one = _deal(decks[first], voices[first], set(), chance)
        other = _deal(decks[second], voices[second], met[one.utt_id], chance)
        met[one.utt_id].add(other.utt_id)
        met[other.utt_id].add(one.utt_id)
        plan.append(_plan_one(f"{first}_{second}-{number:05d}", (one, other), config, chance))
    return sorted(plan, key=lambda planned: planned.utt_id)


def load(path: Path, rates: tuple[int, ...]) -> dict:
    """The recording without its mean at each rate (Hz): some recorders leave an offset as loud as the voice.

    Raises:
        SpikeSepError: it cannot be read.
    """
    voice = {rate: read_audio(path, rate) for rate in rates}
    return {rate: samples - samples.mean() for rate, samples in voice.items()}


def mix(
    planned: PlannedMixture, voices: Sequence[dict], version: Version
) -> tuple[dict[str, np.ndarray], tuple]:
    """Samples float32 by part; no gains, as they follow from the part of the voice that is heard."""
    rate = version.rate
    heard = [
        sign * _cut(row, voice[rate], start, planned.samples, rate)
        for row, voice, start, sign in zip(
            planned.utterances, voices, planned.starts, planned.signs or (1, 1), strict=True
        )
    ]
    first, second = mix_at_snr(*heard, planned.gains[0] - planned.gains[1], rate)
    signals = dict(zip(parts(2, False), (first + second, first, second), strict=True))
    return {part: to_pcm16(samples) for part, samples in signals.items()}, (0.0, 0.0, 0.0)


def finish(
    data: Path, split: str, plan: Sequence[PlannedMixture], version: Version, gains: Sequence[tuple]
) -> bool:
    """`mixtures.tsv` in the data directory: what each mixture is made of, for people; whether it had to be written.

    A start is where a cut begins, unless there was a pause there.
    """
    lines = ["utt_id\tfirst\tsecond\tfirst_start\tsecond_start\tseconds\tsnr_db"]
    for planned in plan:
        names = (row.utt_id for row in planned.utterances)
        seconds = (
            f"{samples / version.rate:.4f}" for samples in (*planned.starts, planned.samples)
        )
        snr_db = round(planned.gains[0] - planned.gains[1], 3)
        lines.append("\t".join([planned.utt_id, *names, *seconds, str(snr_db)]))
    return keep_content(
        data / split / "mixtures.tsv", "".join(f"{line}\n" for line in lines).encode()
    )


def mix_at_snr(
    first: np.ndarray, second: np.ndarray, snr_db: float, sample_rate: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scale two voices [samples] so that their active levels lie `snr_db` apart around -25 dB of full scale.

    Where a voice or the sum would pass 0.9 of full scale, both are scaled down together. They are rounded to 16-bit
    steps, so that their sum is exact in a 16-bit file too.
    """
    scaled = []
    for voice, target in (
        (first, MEAN_LEVEL_DB + snr_db / 2),
        (second, MEAN_LEVEL_DB - snr_db / 2),
    ):
        scaled.append(voice * 10 ** ((target - active_level(voice, sample_rate)) / 20))
    peak = max(np.abs(signal).max() for signal in (*scaled, sum(scaled)))
    gain = min(1.0, (MOST_PEAK - 1 / 32768) / peak)  # a step left for rounding the two
    first, second = (
        np.round(voice * gain * 32768).astype(np.float32) / np.float32(32768) for voice in scaled
    )
    return first, second


def _draw_pairs(sexes: dict[str, str], n: int, chance: random.Random) -> list[tuple[str, str]]:
    """`n` ordered pairs of speakers, balanced in speakers and in same and different sex."""
    used, met = Counter(), Counter()
    pairs = []
    for number in range(n):
        first = _rarest(sexes, used.__getitem__, chance)
        partners = [speaker for speaker in sexes if speaker != first]
        same = [speaker for speaker in partners if sexes[speaker] == sexes[first]]
        diff = [speaker for speaker in partners if sexes[speaker] != sexes[first]]
        wanted = (same, diff)[number % 2] or partners
        second = _rarest(
            wanted, lambda s, first=first: (used[s], met[frozenset((first, s))]), chance
        )
        used.update((first, second))
        met[frozenset((first, second))] += 1
        pairs.append((first, second) if chance.random() < 0.5 else (second, first))
    return pairs


def _rarest(names, count: Callable, chance: random.Random) -> str:
    """One of the names with the lowest count, drawn."""
    counts = {name: count(name) for name in names}
    lowest = min(counts.values())
    return chance.choice([name for name in names if counts[name] == lowest])


def _deal(
    deck: list[Utterance], rows: list[Utterance], met: set[str], chance: random.Random
) -> Utterance:
    """Take the next of a speaker's cards that was not mixed with the other one before; a new deck when none is left."""
    if not deck:
        deck.extend(rows)
        chance.shuffle(deck)
    place = next((i for i, row in enumerate(deck) if row.utt_id not in met), 0)
    return deck.pop(place)


def _plan_one(
    utt_id: str, chosen: tuple[Utterance, Utterance], config: MixingConfig, chance: random.Random
) -> PlannedMixture:
    rate = config.rates_hz[0]
    lengths = [int(row.duration * rate) for row in chosen]
    samples = min(*lengths, round(config.max_seconds * rate))
    starts = tuple(chance.randint(0, length - samples) for length in lengths)
    snr_db = round(chance.uniform(*config.snr_db), 3)
    return PlannedMixture(utt_id, utt_id, chosen, (snr_db / 2, -snr_db / 2), starts, samples)


def _cut(
    row: Utterance, samples: np.ndarray, start: int, length: int, sample_rate: int
) -> np.ndarray:
    """`length` samples from `start`; from later, in half steps and around the end, where that part is a pause.

    A part is a pause if its active level lies more than 15 dB below the utterance's.
    """
    room = len(samples) - length
    if room < 0:
        raise SpikeSepError(
            f"{row.path}: is shorter than its {row.duration:g} s in the table; list the corpus again"
        )
    whole = active_level(samples, sample_rate)
    if not np.isfinite(whole):
        raise SpikeSepError(f"{row.path}: is silent; remove it from the table of utterances")
    places = [
        (min(start, room) + step * length // 2) % (room + 1)
        for step in range(2 * room // length + 2)
    ]
    for place in places:
        part = samples[place : place + length]
        if active_level(part, sample_rate) > whole - EMPTY_DB:
            return part
    raise SpikeSepError(
        f"{row.path}: no part of {length / sample_rate:g} s holds speech; remove it from the table"
    )
