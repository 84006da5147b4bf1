"""What all corpora share between finding files and listing utterances: each candidate is read once, and short files,
files without speech, and second copies of one recording are left out.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import read_channels, read_length
from spikesep.workers import parallel_map


@dataclass(frozen=True)
class Recording:
    """A file that a corpus offers, before anybody has listened to it.

    Attributes:
        path: the audio file.
        name: what tells it from the speaker's other files; becomes part of the utterance id.
        speaker: letters and digits.
        sex: `f`, `m` or `u`.
        unseen: whether the corpus keeps this voice for the open condition; None leaves the choice to `splits`.
        split: of the recording, where the corpus or published lists say so.
        corpus: number of the corpus in the order given; speakers are held out of each.
    """

    path: Path
    name: str
    speaker: str
    sex: str
    unseen: bool | None = None
    split: str | None = None
    corpus: int = 0


@dataclass(frozen=True)
class Surveyed:
    """A recording that passed: its utterance id and its length in seconds."""

    recording: Recording
    utt_id: str
    duration: float


FRAME_SECONDS = 0.032
BAND_HZ = (60.0, 4000.0)
LISTENED_SECONDS = 60.0
QUIETEST_PEAK = 10 ** (-50 / 20)
ACTIVE_RANGE_DB = 30.0
LEAST_LEVEL_SPREAD_DB = 10.0
MOST_IN_THREE_BINS = 0.95
MOST_LIKE_ITS_MEAN = 0.95
MOST_FLAT = 0.4
COPY_DB = 1.5
COPY_SHIFT = 3
"""Frames of 16 ms. Copies in the Debian corpus differ by up to 1.1 dB, takes of like words by 1.9 and more."""


def reason_not_speech(samples: np.ndarray, sample_rate: int) -> str | None:
    """Why a signal float32 [samples] cannot be speech, in a word, or None where it may be.

    The rule, on half-overlapping Hann frames of 32 ms, 60-4000 Hz, of the first minute. A frame is active if its level
    is within 30 dB of the loudest. Speech has syllables and pauses, and its spectrum moves; so these are not speech:

    - `silence`: no sample above -50 dB of full scale;
    - `steady`: the 10th and 95th percentile of the frame levels lie less than 10 dB apart (noise, hum, a held tone);
    - `tone`: in most active frames some three bins hold over 95 % of the energy (beeps, single notes), or the active
      frames resemble their own mean spectrum by over 0.95 (a chord switched on and off: ringing, busy);
    - `noise`: the spectral flatness (geometric over arithmetic mean) of most active frames is over 0.4.

    The limits leave room: of the 4005 prompts of fourteen real voices (corpus `debian`) that last 1.5 s and more, the
    nearest lie at 12.9 dB, 0.91, 0.86 and 0.22. Shorter ones say too little: a few of 1 s are taken for noise. Music
    and animals whose spectrum moves pass as speech: such files are for a corpus to name.
    """
    samples = samples[: round(LISTENED_SECONDS * sample_rate)]
    return _reason(np.abs(samples).max(), _frame_spectra(samples, sample_rate))


def survey_recordings(
    recordings: Iterable[Recording], min_seconds: float, n_jobs: int
) -> tuple[list[Surveyed], Counter]:
    """Read each recording once and keep those of at least `min_seconds` with speech, each once.

    Of links to one file, and of files of one speaker whose level runs alike to 1.5 dB on average (copies, also with
    other dither or a little shifted), the first by path stays.

    Returns:
        what stays, in order of path, and how many files were left out for each reason.
    """
    by_file = {
        recording.path.resolve(): recording
        for recording in sorted(recordings, key=lambda r: r.path, reverse=True)
    }
    candidates = sorted(by_file.values(), key=lambda r: r.path)
    heard = parallel_map(partial(_listen, min_seconds=min_seconds), candidates, n_jobs, "listening")
    kept, left_out, names = [], Counter(), Counter()
    contours: dict[str, dict[int, list[np.ndarray]]] = defaultdict(
        dict
    )  # by speaker, then by length
    for recording, (duration, reason, contour) in zip(candidates, heard, strict=True):
        if reason is None and _is_copy(contour, contours[recording.speaker]):
            reason = "copy"
        if reason:
            left_out[reason] += 1
            continue
        contours[recording.speaker].setdefault(len(contour), []).append(contour)
        kept.append(Surveyed(recording, _utterance_id(recording, names), duration))
    return kept, left_out


def measure_recordings(
    recordings: Iterable[Recording], min_seconds: float, n_jobs: int
) -> tuple[list[Surveyed], Counter]:
    """As `survey_recordings`, by the files' headers alone: only what is too short is left out.

    Raises:
        SpikeSepError: a file cannot be read.
    """
    candidates = sorted(recordings, key=lambda r: r.path)
    lengths = parallel_map(read_length, [r.path for r in candidates], n_jobs, "measuring", chunk=64)
    kept, left_out, names = [], Counter(), Counter()
    for recording, (samples, rate) in zip(candidates, lengths, strict=True):
        if samples < min_seconds * rate:
            left_out["short"] += 1
        else:
            kept.append(Surveyed(recording, _utterance_id(recording, names), samples / rate))
    return kept, left_out


def _listen(recording: Recording, min_seconds: float) -> tuple[float, str | None, np.ndarray]:
    """Duration in seconds, why it is left out, and the level contour in dB [frames] by which copies are known."""
    nothing = np.empty(0, np.float32)
    try:
        channels, rate = read_channels(recording.path)
    except SpikeSepError:
        return 0.0, "unreadable", nothing
    duration = channels.shape[1] / rate
    if duration < max(min_seconds, 4 * FRAME_SECONDS):
        return duration, "short", nothing
    samples = channels.mean(axis=0)[: round(LISTENED_SECONDS * rate)]
    power = _frame_spectra(samples, rate)
    reason = _reason(np.abs(samples).max(), power)
    level = _levels(power)
    return duration, reason, np.maximum(level - level.max(), -ACTIVE_RANGE_DB).astype(np.float32)


def _reason(peak: float, power: np.ndarray) -> str | None:
    """The rule of `reason_not_speech`, on power spectra [frames, bins]."""
    if peak < QUIETEST_PEAK:
        return "silence"
    level = _levels(power)
    low, high = np.percentile(level, [10, 95])
    if high - low < LEAST_LEVEL_SPREAD_DB:
        return "steady"
    active = power[level > level.max() - ACTIVE_RANGE_DB] + 1e-12
    share = active / active.sum(axis=1, keepdims=True)
    in_three_bins = np.median(np.sort(share, axis=1)[:, -3:].sum(axis=1))
    like_mean = (
        np.sqrt(share * share.mean(axis=0)).sum(axis=1).mean()
    )  # Bhattacharyya coefficient: 1 where equal
    if in_three_bins > MOST_IN_THREE_BINS or like_mean > MOST_LIKE_ITS_MEAN:
        return "tone"
    flatness = np.median(np.exp(np.log(active).mean(axis=1)) / active.mean(axis=1))
    return "noise" if flatness > MOST_FLAT else None


def _levels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(power.sum(axis=1) + 1e-12)


def _frame_spectra(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Power spectra [frames, bins] within `BAND_HZ`."""
    length = round(FRAME_SECONDS * sample_rate)
    frames = np.lib.stride_tricks.sliding_window_view(samples, length)[:: length // 2]
    spectra = np.abs(np.fft.rfft(frames * np.hanning(length).astype(np.float32), axis=1)) ** 2
    low, high = (round(hz * length / sample_rate) for hz in BAND_HZ)
    return spectra[:, low:high]


def _is_copy(contour: np.ndarray, others: dict[int, list[np.ndarray]]) -> bool:
    """Whether a contour runs like one of the others, which are held by length; either may begin a little later."""
    lengths = range(len(contour) - COPY_SHIFT, len(contour) + COPY_SHIFT + 1)
    return any(
        _distance(contour, other) < COPY_DB
        for length in lengths
        for other in others.get(length, [])
    )


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of two contours, dB, at the shift where it is least."""
    distances = []
    for shift in range(-COPY_SHIFT, COPY_SHIFT + 1):
        a, b = one[max(0, shift) :], other[max(0, -shift) :]
        shared = min(len(a), len(b))
        distances.append(np.abs(a[:shared] - b[:shared]).mean())
    return min(distances)


def _utterance_id(recording: Recording, names: Counter) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "_", recording.name).strip("_") or "x"
    names[recording.speaker, name] += 1
    number = names[recording.speaker, name]
    return f"{recording.speaker}-{name}" if number == 1 else f"{recording.speaker}-{name}-{number}"
