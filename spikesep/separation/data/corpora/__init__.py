"""Speech corpora, one module each, and the steps that they share.

A module finds, fetches or synthesizes recordings and knows their speakers. Screening and splitting
are common to all. The result is one table of utterances.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora import (
    commonvoice,
    debian,
    espeak,
    folder,
    librispeech,
    wsj0,
)
from spikesep.separation.data.corpora.mixture_lists import read_mixture_lists, recording_key
from spikesep.separation.data.corpora.screening import (
    Recording,
    ScreenedRecording,
    measure_recordings,
    screen_recordings,
)
from spikesep.separation.data.corpora.splits import assign_splits
from spikesep.separation.data.corpora.table import SPLITS, Utterance, check_listable

CORPORA: dict[str, Callable[[CorpusConfig, Path, int, int], list[Recording]]] = {
    "debian": debian.recordings,
    "folder": folder.recordings,
    "commonvoice": commonvoice.recordings,
    "librispeech": librispeech.recordings,
    "wsj0": wsj0.recordings,
    "espeak": espeak.recordings,
}
"""Functions of the settings, the folder of downloads, the seed and the number of processes."""


def list_utterances(
    config: CorpusConfig, downloads: Path, seed: int, n_jobs: int, n_speakers: int = 2
) -> tuple[list[Utterance], list[str]]:
    """Find or fetch a corpus, screen its recordings and split them, or follow mixture lists.

    Args:
        config: Settings of the corpus.
        downloads: Folder of fetched and synthesized corpora.
        seed: Seed of the splits.
        n_jobs: Number of processes; 0 uses all cores.
        n_speakers: Speakers per mixture, which select the mixture lists.

    Returns:
        The table of utterances, and one-line notices for the user.

    Raises:
        SpikeSepError: If the corpus is not available, or has too few voices.
    """
    notices = []
    try:
        recordings = _find_recordings(config, downloads, seed, n_jobs)
    except debian.FetchError as error:
        if not config.fallback:
            raise
        config = _fall_back(config, error, notices)
        recordings = _find_recordings(config, downloads, seed, n_jobs)
    if config.name == "espeak":
        notices.append("espeak voices are synthetic: results on them say little about people")
    if config.lists:
        listed = _listed_recordings(recordings, config, n_speakers, notices)
        accepted, rejected = measure_recordings(listed, 0.0, n_jobs)
    else:
        screen = measure_recordings if config.as_published else screen_recordings
        accepted, rejected = screen(recordings, config.min_seconds, n_jobs)
    if rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
        notices.append(f"left out {rejected.total()} of {len(recordings)} files: {reasons}")
    own_splits = {item.recording.split for item in accepted}
    if config.lists or (config.as_published and own_splits == set(SPLITS)):
        return [_with_own_split(item) for item in accepted], notices
    if config.as_published:
        notices.append(
            "the corpus does not define all three splits here; voices are held out instead"
        )
    table, split_notices = assign_splits(accepted, config, seed)
    return table, notices + split_notices


def _fall_back(config: CorpusConfig, error: debian.FetchError, notices: list[str]) -> CorpusConfig:
    """Return settings of the fallback corpus, and add a notice."""
    if config.fallback not in CORPORA:
        raise SpikeSepError(
            f"--corpus.fallback: {config.fallback} is none of {', '.join(CORPORA)}"
        ) from error
    notices.append(
        f"{error}; taking the {config.fallback} corpus instead, with its own choice of voices"
    )
    return replace(config, name=config.fallback, fallback="", seen_speakers=[], unseen_speakers=[])


def _find_recordings(
    config: CorpusConfig, downloads: Path, seed: int, n_jobs: int
) -> list[Recording]:
    """Return the recordings of the corpus and of the additional ones (`config.also`).

    Voices of a corpus that reserves none for the open condition are left to `splits`. A speaker
    with the name of one in an earlier corpus is another person, and gets another name.
    """
    if not config.also:
        return _find_in_corpus(config, downloads, seed, n_jobs)
    found = []
    for number, entry in enumerate([f"{config.name}:{config.root}", *config.also]):
        name, _, root = entry.partition(":")
        if name not in CORPORA:
            raise SpikeSepError(f"--corpus.also {entry}: {name} is none of {', '.join(CORPORA)}")
        own = _find_in_corpus(replace(config, name=name, root=root), downloads, seed, n_jobs)
        reserves = any(recording.unseen for recording in own)
        others = {recording.speaker for recording in found}
        found += [
            replace(
                item,
                speaker=f"{item.speaker}c{number}" if item.speaker in others else item.speaker,
                corpus=number,
                unseen=item.unseen if reserves else None,
            )
            for item in own
        ]
    return found


def _draw_per_speaker(recordings: list[Recording], limit: int, seed: int) -> list[Recording]:
    """Draw at most `limit` recordings of each speaker; all if it is 0."""
    if not limit:
        return recordings
    rng, kept = random.Random(f"recordings {seed}"), Counter()
    drawn = []
    for recording in rng.sample(sorted(recordings, key=lambda r: r.path), len(recordings)):
        kept[recording.speaker] += 1
        if kept[recording.speaker] <= limit:
            drawn.append(recording)
    return drawn


def _find_in_corpus(
    config: CorpusConfig, downloads: Path, seed: int, n_jobs: int
) -> list[Recording]:
    found = CORPORA[config.name](config, downloads, seed, n_jobs)
    if not found:
        raise SpikeSepError(
            f"corpus {config.name}: no recording found under {config.root or downloads}; "
            "check the folder"
        )
    found = _draw_per_speaker(found, config.max_per_speaker, seed)
    for recording in found:
        check_listable(recording.path)
    return found


def _listed_recordings(
    recordings: list[Recording], config: CorpusConfig, n_speakers: int, notices: list[str]
) -> list[Recording]:
    """Return the recordings that mixture lists name, in the splits of their lists."""
    known = {recording_key(recording.path): recording for recording in recordings}
    subsets = {recording.path.parts[-4] for recording in recordings}
    listed: dict[str, Recording] = {}
    mixture_lists, ignored = read_mixture_lists(config.lists, n_speakers, subsets)
    notices += ignored
    split_rows = [
        (split, row) for split, lists in mixture_lists.items() for _, rows in lists for row in rows
    ]
    for split, row in split_rows:
        for name, key in zip(row.recordings, row.keys, strict=True):
            if key not in known:
                raise SpikeSepError(
                    f"{row.where}: {name} is not in {config.root}; complete the corpus there"
                )
            if key in listed and listed[key].split != split:
                raise SpikeSepError(
                    f"{row.where}: {name} is in {listed[key].split} too; "
                    "list a recording in one split only"
                )
            listed[key] = replace(known[key], split=split, unseen=split == "tt")
    return list(listed.values())


def _with_own_split(item: ScreenedRecording) -> Utterance:
    recording = item.recording
    assert recording.split is not None
    return Utterance(
        item.utt_id,
        recording.path,
        recording.speaker,
        recording.sex,
        recording.split,
        item.duration,
        recording.corpus,
    )
