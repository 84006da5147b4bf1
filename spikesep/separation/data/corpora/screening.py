"""Screening of recordings: every candidate is read once.

Short files, files without speech, and copies of other recordings are rejected. All corpora share
this step between finding files and listing utterances.
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
    """A file found in a corpus, before screening.

    Attributes:
        path: Audio file.
        name: Distinguishes the speaker's files; becomes part of the utterance id.
        speaker: Letters and digits.
        sex: `f`, `m` or `u`.
        unseen: Whether the corpus reserves this voice for the open condition; None leaves the
            choice to `splits`.
        split: Split of the recording, if the corpus or a mixture list defines it.
        corpus: Index of the corpus; speakers are held out from each corpus separately.
    """

    path: Path
    name: str
    speaker: str
    sex: str
    unseen: bool | None = None
    split: str | None = None
    corpus: int = 0


@dataclass(frozen=True)
class ScreenedRecording:
    """An accepted recording.

    Attributes:
        recording: The recording.
        utt_id: Its utterance id.
        duration: Its length in seconds.
    """

    recording: Recording
    utt_id: str
    duration: float


FRAME_SECONDS = 0.032
BAND_HZ = (60.0, 4000.0)
MAX_ANALYZED_SECONDS = 60.0
MIN_PEAK = 10 ** (-50 / 20)
ACTIVE_RANGE_DB = 30.0
MIN_LEVEL_SPREAD_DB = 10.0
MAX_SHARE_OF_THREE_BINS = 0.95
MAX_LIKENESS_TO_MEAN = 0.95
MAX_FLATNESS = 0.4
MAX_COPY_DISTANCE_DB = 1.5
"""Copies in the Debian corpus differ by up to 1.1 dB, takes of similar words by at least 1.9."""
MAX_COPY_SHIFT = 3
"""Largest shift between copies, in frames of 16 ms."""


def rejection_reason(samples: np.ndarray, sample_rate: int) -> str | None:
    """Say in one word why a signal, float32 [T], is not speech, or return None if it may be.

    The rules apply to half-overlapping Hann frames of 32 ms, 60-4000 Hz, of the first minute. A
    frame is active if its level is within 30 dB of the loudest frame. Speech has syllables and
    pauses, and its spectrum changes. So the following are not speech:

    - `silence`: no sample exceeds -50 dB of full scale;
    - `steady`: the 10th and 95th percentile of the frame levels differ by less than 10 dB (noise,
      hum, a held tone);
    - `tone`: in most active frames, three bins hold over 95 % of the energy (beeps, single notes),
      or the active frames resemble their mean spectrum by over 0.95 (a chord switched on and off,
      as ringing and busy tones);
    - `noise`: the spectral flatness (geometric over arithmetic mean) of most active frames exceeds
      0.4.

    The limits leave a margin: of the 4005 prompts of 1.5 s and more by fourteen real voices (corpus
    `debian`), the closest are at 12.9 dB, 0.91, 0.86 and 0.22. Shorter prompts are less certain: a
    few of 1 s are taken for noise. Music and animals with a changing spectrum pass as speech; a
    corpus must exclude such files by name.
    """
    samples = samples[: round(MAX_ANALYZED_SECONDS * sample_rate)]
    return _reason(np.abs(samples).max(), _frame_spectra(samples, sample_rate))


def screen_recordings(
    recordings: Iterable[Recording], min_seconds: float, n_jobs: int
) -> tuple[list[ScreenedRecording], Counter]:
    """Read each recording once, and accept speech of at least `min_seconds` without copies.

    Only the first path is accepted of links to one file, and of files of one speaker whose level
    contours differ by less than 1.5 dB on average. These are copies, possibly with other dither or
    slightly shifted.

    Returns:
        The accepted recordings in order of path, and the number of rejected files by reason.
    """
    by_file = {
        recording.path.resolve(): recording
        for recording in sorted(recordings, key=lambda r: r.path, reverse=True)
    }
    candidates = sorted(by_file.values(), key=lambda r: r.path)
    results = parallel_map(
        partial(_analyze, min_seconds=min_seconds), candidates, n_jobs, "screening"
    )
    accepted, rejected, names = [], Counter(), Counter()
    # Level contours by speaker and length.
    contours: dict[str, dict[int, list[np.ndarray]]] = defaultdict(dict)
    for recording, (duration, reason, contour) in zip(candidates, results, strict=True):
        if reason is None and _is_copy(contour, contours[recording.speaker]):
            reason = "copy"
        if reason:
            rejected[reason] += 1
            continue
        contours[recording.speaker].setdefault(len(contour), []).append(contour)
        accepted.append(ScreenedRecording(recording, _utterance_id(recording, names), duration))
    return accepted, rejected


def measure_recordings(
    recordings: Iterable[Recording], min_seconds: float, n_jobs: int
) -> tuple[list[ScreenedRecording], Counter]:
    """Read the lengths of recordings, mostly from headers, and reject only short ones.

    Returns:
        See `screen_recordings`.

    Raises:
        SpikeSepError: If a file cannot be read.
    """
    candidates = sorted(recordings, key=lambda r: r.path)
    lengths = parallel_map(read_length, [r.path for r in candidates], n_jobs, "measuring", chunk=64)
    accepted, rejected, names = [], Counter(), Counter()
    for recording, (samples, rate) in zip(candidates, lengths, strict=True):
        if samples < min_seconds * rate:
            rejected["short"] += 1
        else:
            utt_id = _utterance_id(recording, names)
            accepted.append(ScreenedRecording(recording, utt_id, samples / rate))
    return accepted, rejected


def _analyze(recording: Recording, min_seconds: float) -> tuple[float, str | None, np.ndarray]:
    """Return the duration in seconds, the reason for rejection, and the level contour.

    The contour, in dB per frame, identifies copies.
    """
    nothing = np.empty(0, np.float32)
    try:
        channels, rate = read_channels(recording.path)
    except SpikeSepError:
        return 0.0, "unreadable", nothing
    duration = channels.shape[1] / rate
    if duration < max(min_seconds, 4 * FRAME_SECONDS):
        return duration, "short", nothing
    samples = channels.mean(axis=0)[: round(MAX_ANALYZED_SECONDS * rate)]
    power = _frame_spectra(samples, rate)
    reason = _reason(np.abs(samples).max(), power)
    level = _levels(power)
    return duration, reason, np.maximum(level - level.max(), -ACTIVE_RANGE_DB).astype(np.float32)


def _reason(peak: float, power: np.ndarray) -> str | None:
    """Apply the rules of `rejection_reason` to power spectra [frames, bins]."""
    if peak < MIN_PEAK:
        return "silence"
    level = _levels(power)
    low, high = np.percentile(level, [10, 95])
    if high - low < MIN_LEVEL_SPREAD_DB:
        return "steady"
    active = power[level > level.max() - ACTIVE_RANGE_DB] + 1e-12
    share = active / active.sum(axis=1, keepdims=True)
    in_three_bins = np.median(np.sort(share, axis=1)[:, -3:].sum(axis=1))
    # Bhattacharyya coefficient, 1 for equal spectra.
    like_mean = np.sqrt(share * share.mean(axis=0)).sum(axis=1).mean()
    if in_three_bins > MAX_SHARE_OF_THREE_BINS or like_mean > MAX_LIKENESS_TO_MEAN:
        return "tone"
    flatness = np.median(np.exp(np.log(active).mean(axis=1)) / active.mean(axis=1))
    return "noise" if flatness > MAX_FLATNESS else None


def _levels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(power.sum(axis=1) + 1e-12)


def _frame_spectra(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Compute power spectra [frames, bins] within `BAND_HZ`."""
    length = round(FRAME_SECONDS * sample_rate)
    frames = np.lib.stride_tricks.sliding_window_view(samples, length)[:: length // 2]
    spectra = np.abs(np.fft.rfft(frames * np.hanning(length).astype(np.float32), axis=1)) ** 2
    low, high = (round(hz * length / sample_rate) for hz in BAND_HZ)
    return spectra[:, low:high]


def _is_copy(contour: np.ndarray, others: dict[int, list[np.ndarray]]) -> bool:
    """Return whether a contour resembles one of the others (by length), up to a small shift."""
    lengths = range(len(contour) - MAX_COPY_SHIFT, len(contour) + MAX_COPY_SHIFT + 1)
    return any(
        _distance(contour, other) < MAX_COPY_DISTANCE_DB
        for length in lengths
        for other in others.get(length, [])
    )


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean difference of two contours in dB, minimized over shifts."""
    distances = []
    for shift in range(-MAX_COPY_SHIFT, MAX_COPY_SHIFT + 1):
        a, b = one[max(0, shift) :], other[max(0, -shift) :]
        shared = min(len(a), len(b))
        distances.append(np.abs(a[:shared] - b[:shared]).mean())
    return min(distances)


def _utterance_id(recording: Recording, names: Counter) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "_", recording.name).strip("_") or "x"
    names[recording.speaker, name] += 1
    number = names[recording.speaker, name]
    return f"{recording.speaker}-{name}" if number == 1 else f"{recording.speaker}-{name}-{number}"
