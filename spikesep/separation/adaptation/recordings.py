"""Recordings of the voices to adapt to: found, cut into pieces, and held out in part."""

import random
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.files import hash_files
from spikesep.separation.audio.files import read_channels, read_length, write_wav
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora import folder
from spikesep.separation.data.corpora.screening import (
    Recording,
    ScreenedRecording,
    screen_recordings,
)
from spikesep.separation.data.corpora.table import Utterance, check_listable

MIN_SPEAKER_SECONDS = 20.0
"""Speech that is needed of each speaker, s."""
MIN_RECORDING_SECONDS = 1.5
PIECE_SECONDS = 10.0
"""Recordings of twice this length and more are cut into pieces of at least this length."""
HELD_OUT_SHARE = 0.2
"""Share of each speaker's speech that is held out, at least one recording or piece."""


def find_recordings(root: Path, n_jobs: int) -> tuple[list[ScreenedRecording], list[str]]:
    """Find the recordings of a folder that hold speech.

    Returns:
        The recordings, and notices on files that are left out; unreadable ones are named.

    Raises:
        SpikeSepError: the folder is missing, or has fewer than two speakers with enough speech.
    """
    if not root.is_dir():
        raise SpikeSepError(f"{root}: is not a folder; give one with a folder per speaker")
    found = folder.recordings(CorpusConfig(name="folder", root=str(root)), Path(), 0, n_jobs)
    for recording in found:
        check_listable(recording.path)
    accepted, rejected = screen_recordings(found, MIN_RECORDING_SECONDS, n_jobs)
    notices = [f"left out: {path} cannot be read" for path in _unreadable(found, accepted)]
    reasons = [
        f"{count} {reason}" for reason, count in sorted(rejected.items()) if reason != "unreadable"
    ]
    if reasons:
        notices.append(f"left out of {len(found)} recordings: {', '.join(reasons)}")
    _check_amount(root, found, accepted)
    return accepted, notices


def hash_recordings(recordings: Sequence[ScreenedRecording]) -> str:
    """Return a hash of the ids and the files of recordings."""
    ids = " ".join(item.utt_id for item in recordings)
    return f"{ids.count(' ') + 1} {hash_files([item.recording.path for item in recordings])}"


def list_pieces(
    root: Path, recordings: Sequence[ScreenedRecording], home: Path, seed: int, n_jobs: int
) -> list[Utterance]:
    """Cut long recordings, and hold out a part of each speaker's for validation.

    Args:
        root: folder of the recordings, for messages.
        recordings: result of `find_recordings`.
        home: folder that receives the pieces; emptied first.
        seed: seed of the choice.
        n_jobs: processes; 0 uses all cores.

    Returns:
        Utterances of the splits `tr` and `cv`, sorted by id.

    Raises:
        SpikeSepError: too little speech is left as pieces are without speech.
    """
    shutil.rmtree(home, ignore_errors=True)
    pieces = [piece for item in recordings for piece in _cut(item, home)]
    accepted, _ = screen_recordings(pieces, MIN_RECORDING_SECONDS, n_jobs)
    _check_amount(root, pieces, accepted)
    rng, table = random.Random(f"held out {seed}"), []
    for speaker, items in sorted(_by_speaker(accepted).items()):
        held_out = _hold_out(items, rng)
        table += [
            Utterance(
                item.utt_id,
                item.recording.path,
                speaker,
                item.recording.sex,
                "cv" if item.utt_id in held_out else "tr",
                item.duration,
            )
            for item in items
        ]
    return sorted(table, key=lambda row: row.utt_id)


def _unreadable(found: Sequence[Recording], accepted: Sequence[ScreenedRecording]) -> list[Path]:
    """Return the files that cannot be read, of those that were not accepted."""
    kept = {item.recording.path for item in accepted}
    unreadable = []
    for path in sorted(recording.path for recording in found if recording.path not in kept):
        try:
            read_length(path)
        except SpikeSepError:
            unreadable.append(path)
    return unreadable


def _check_amount(
    root: Path, found: Sequence[Recording], accepted: Sequence[ScreenedRecording]
) -> None:
    """Check that there are two speakers or more, and enough speech of each.

    Raises:
        SpikeSepError: it says how much there is and how much is needed.
    """
    speakers = sorted({recording.speaker for recording in found})
    if len(speakers) < 2:
        raise SpikeSepError(
            f"{root}: needs recordings of two speakers or more, has {len(speakers)}; give one "
            "folder per speaker, or files named SPEAKER-*.wav"
        )
    voices = _by_speaker(accepted)
    for speaker in speakers:
        items = voices.get(speaker, [])
        seconds = sum(item.duration for item in items)
        if seconds < MIN_SPEAKER_SECONDS:
            raise SpikeSepError(
                f"{root}: {seconds:.0f} s of speech of {speaker}, {MIN_SPEAKER_SECONDS:.0f} s are "
                "needed of each speaker; add recordings, or remove this speaker's"
            )
        if len(items) < 2 and items[0].duration < 2 * PIECE_SECONDS:
            raise SpikeSepError(
                f"{root}: one piece with speech is left of {speaker}, two are needed; add a "
                "recording"
            )


def _by_speaker(items: Sequence[ScreenedRecording]) -> dict[str, list[ScreenedRecording]]:
    voices = defaultdict(list)
    for item in items:
        voices[item.recording.speaker].append(item)
    return dict(voices)


def _cut(item: ScreenedRecording, home: Path) -> list[Recording]:
    """Cut a long recording into pieces of equal length, written below `home`."""
    recording, n_pieces = item.recording, int(item.duration / PIECE_SECONDS)
    if n_pieces < 2:
        return [recording]
    channels, rate = read_channels(recording.path)
    samples, pieces = channels.mean(axis=0), []
    samples /= max(1.0, np.abs(samples).max())  # floats and decoded MP3 may exceed full scale
    for number in range(n_pieces):
        start, end = (len(samples) * k // n_pieces for k in (number, number + 1))
        path = home / recording.speaker / f"{item.utt_id}_{number:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, samples[start:end], rate)
        pieces.append(replace(recording, path=path, name=f"{recording.name}_{number:03d}"))
    return pieces


def _hold_out(items: Sequence[ScreenedRecording], rng: random.Random) -> set[str]:
    """Draw ids within a share of the speech; the shortest recording's if none is within it."""
    drawn = sorted(items, key=lambda item: item.utt_id)
    rng.shuffle(drawn)
    left, chosen = HELD_OUT_SHARE * sum(item.duration for item in items), set()
    for item in drawn:
        if item.duration <= left:
            chosen.add(item.utt_id)
            left -= item.duration
    return chosen or {min(drawn, key=lambda item: item.duration).utt_id}
