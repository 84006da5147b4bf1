"""Two-speaker mixtures: a plan, made from the table of utterances and a seed, says who speaks with whom, how loud, and
which part of a long utterance; rendering turns the plan into wav files. A plan is the same on every machine, and so are
the files, up to the last bit where recordings had to be resampled.

Levels are active speech levels, by the gate of `active_level`. (WSJ0-2mix is mixed by ITU-T P.56 levels and from
published lists; a module for it would bring its own level and its own plan.)
"""

import random
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.separation.audio import read_audio, write_wav
from spikesep.separation.config import MixingConfig
from spikesep.separation.corpora.table import Utterance
from spikesep.separation.kaldi import Mixture
from spikesep.separation.parallel import parallel_map

PARTS = ("mix", "s1", "s2")
GATE_DB = 25.0
GATE_SECONDS = 0.02
MEAN_LEVEL_DB = -25.0
MOST_PEAK = 0.9
EMPTY_DB = 15.0


@dataclass(frozen=True)
class PlannedMixture:
    """What one mixture will be; `snr_db` is the first speaker's level over the second's.

    `starts` are the samples, at the mixtures' rate, at which each utterance is cut.
    """

    utt_id: str
    utterances: tuple[Utterance, Utterance]
    starts: tuple[int, int]
    samples: int
    snr_db: float


def active_level(samples: np.ndarray, sample_rate: int) -> float:
    """Active speech level of float32 [samples], dB of full scale: the mean power of the frames that hold speech.

    Frames of 20 ms count if they lie within 25 dB of the loudest. As the loudest lie some 10 dB above the active level,
    that is the margin of about 15 dB below it that ITU-T P.56 uses. -inf for silence.
    """
    length = min(round(GATE_SECONDS * sample_rate), len(samples))
    if not length:
        return -np.inf
    frames = samples[: len(samples) // length * length].reshape(-1, length)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    active = power[power >= power.max() * 10 ** (-GATE_DB / 10)]
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(active.mean()))


def plan_mixtures(table: list[Utterance], split: str, n: int, config: MixingConfig, seed: int) -> list[PlannedMixture]:
    """Choose `n` mixtures of two different speakers from one split of the table.

    Mixtures of the same and of different sex take turns as far as there are voices for both. The first speaker is
    always one that was used least; its partner too, among those of the wanted sex; who is louder is drawn. A speaker's
    utterances are dealt like cards, all of them before any again. Both are cut to the shorter, and to `max_seconds`.

    Raises:
        SpikeSepError: fewer than two speakers, or a setting that cannot be.
    """
    _check(config, n)
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


def planned_files(planned: PlannedMixture, folder: Path) -> Mixture:
    """Where a planned mixture is written: `folder/{mix,s1,s2}/<utt_id>.wav`."""
    mixture, *sources = (folder / part / f"{planned.utt_id}.wav" for part in PARTS)
    speakers, sexes = zip(*((row.speaker, row.sex) for row in planned.utterances), strict=True)
    return Mixture(planned.utt_id, mixture, tuple(sources), speakers, sexes)


def render_mixtures(plan: list[PlannedMixture], folder: Path, config: MixingConfig, n_jobs: int) -> int:
    """Write all mixtures of a plan into `folder`; those that are there in full length are kept.

    Each utterance is read and resampled once, by whichever process, before any is mixed.

    Returns:
        how many were written.

    Raises:
        SpikeSepError: a recording cannot be read, is silent, or is shorter than the table says.
    """
    missing = [planned for planned in plan if not _is_written(planned, folder, config.sample_rate)]
    if not missing:
        return 0
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
    for left_behind in folder.glob(".utterances*"):  # by a run that was killed
        shutil.rmtree(left_behind)
    with tempfile.TemporaryDirectory(prefix=".utterances", dir=folder) as cache:
        utterances = list({row.utt_id: row for planned in missing for row in planned.utterances}.values())
        load = partial(_resample_to, folder=Path(cache), sample_rate=config.sample_rate)
        parallel_map(load, utterances, n_jobs, "resampling")
        write = partial(_write_one, folder=folder, cache=Path(cache), sample_rate=config.sample_rate)
        parallel_map(write, missing, n_jobs, "mixing")
    return len(missing)


def mix_at_snr(first: np.ndarray, second: np.ndarray, snr_db: float, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale two voices [samples] so that their active levels lie `snr_db` apart around -25 dB of full scale.

    Where a voice or the sum would pass 0.9 of full scale, both are scaled down together. They are rounded to 16-bit
    steps, so that their sum is exact in a 16-bit file too.
    """
    scaled = []
    for voice, target in ((first, MEAN_LEVEL_DB + snr_db / 2), (second, MEAN_LEVEL_DB - snr_db / 2)):
        scaled.append(voice * 10 ** ((target - active_level(voice, sample_rate)) / 20))
    peak = max(np.abs(signal).max() for signal in (*scaled, sum(scaled)))
    gain = min(1.0, (MOST_PEAK - 1 / 32768) / peak)  # a step left for rounding the two
    first, second = (np.round(voice * gain * 32768).astype(np.float32) / np.float32(32768) for voice in scaled)
    return first, second


def _check(config: MixingConfig, n: int) -> None:
    low, high = config.snr_db
    faults = {
        f"--mixing.n_train, n_closed, n_open: {n} mixtures; ask for at least one": n < 1,
        f"--mixing.sample_rate: {config.sample_rate} Hz is too low for speech; 8000 is usual": config.sample_rate
        < 1000,
        f"--mixing.max_seconds: {config.max_seconds} s is too short; 4 is usual": not config.max_seconds >= 0.5,
        f"--mixing.snr_db: {low} to {high} dB is no range; give the lower end first": not low <= high,
    }
    for fault, found in faults.items():
        if found:
            raise SpikeSepError(fault)


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
        second = _rarest(wanted, lambda s, first=first: (used[s], met[frozenset((first, s))]), chance)
        used.update((first, second))
        met[frozenset((first, second))] += 1
        pairs.append((first, second) if chance.random() < 0.5 else (second, first))
    return pairs


def _rarest(names, count: Callable, chance: random.Random) -> str:
    """One of the names with the lowest count, drawn."""
    counts = {name: count(name) for name in names}
    lowest = min(counts.values())
    return chance.choice([name for name in names if counts[name] == lowest])


def _deal(deck: list[Utterance], rows: list[Utterance], met: set[str], chance: random.Random) -> Utterance:
    """Take the next of a speaker's cards that was not mixed with the other one before; a new deck when none is left."""
    if not deck:
        deck.extend(rows)
        chance.shuffle(deck)
    place = next((i for i, row in enumerate(deck) if row.utt_id not in met), 0)
    return deck.pop(place)


def _plan_one(
    utt_id: str, chosen: tuple[Utterance, Utterance], config: MixingConfig, chance: random.Random
) -> PlannedMixture:
    lengths = [int(row.duration * config.sample_rate) for row in chosen]
    samples = min(*lengths, round(config.max_seconds * config.sample_rate))
    starts = tuple(chance.randint(0, length - samples) for length in lengths)
    return PlannedMixture(utt_id, chosen, starts, samples, round(chance.uniform(*config.snr_db), 3))


def _is_written(planned: PlannedMixture, folder: Path, sample_rate: int) -> bool:
    files = planned_files(planned, folder)
    for path in (files.mixture, *files.sources):
        try:
            info = soundfile.info(path)
        except soundfile.SoundFileError:
            return False
        if (info.frames, info.samplerate) != (planned.samples, sample_rate):  # frames in the file, not in its header
            return False
    return True


def _resample_to(row: Utterance, folder: Path, sample_rate: int) -> None:
    samples = read_audio(row.path, sample_rate)
    np.save(
        folder / f"{row.utt_id}.npy", samples - samples.mean()
    )  # some recorders leave an offset as loud as the voice


def _write_one(planned: PlannedMixture, folder: Path, cache: Path, sample_rate: int) -> None:
    voices = []
    for row, start in zip(planned.utterances, planned.starts, strict=True):
        samples = np.load(cache / f"{row.utt_id}.npy", mmap_mode="r")
        voices.append(_cut(row, samples, start, planned.samples, sample_rate))
    first, second = mix_at_snr(*voices, planned.snr_db, sample_rate)
    files = planned_files(planned, folder)
    for path, samples in zip((*files.sources, files.mixture), (first, second, first + second), strict=True):
        write_wav(path, samples, sample_rate)


def _cut(row: Utterance, samples: np.ndarray, start: int, length: int, sample_rate: int) -> np.ndarray:
    """`length` samples from `start`; from later, in half steps and around the end, where that part is a pause.

    A part is a pause if its active level lies more than 15 dB below the utterance's.
    """
    room = len(samples) - length
    if room < 0:
        raise SpikeSepError(f"{row.path}: is shorter than its {row.duration:g} s in the table; list the corpus again")
    whole = active_level(samples, sample_rate)
    if not np.isfinite(whole):
        raise SpikeSepError(f"{row.path}: is silent; remove it from the table of utterances")
    places = [(min(start, room) + step * length // 2) % (room + 1) for step in range(2 * room // length + 2)]
    for place in places:
        part = np.asarray(samples[place : place + length])
        if active_level(part, sample_rate) > whole - EMPTY_DB:
            return part
    raise SpikeSepError(f"{row.path}: no part of {length / sample_rate:g} s holds speech; remove it from the table")
