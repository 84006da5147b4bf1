"""Speech corpora, one module each. A module finds or makes the files of its voices and says whose they are; listening
to them and giving each its split is shared. What comes out is one table of utterances.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora import debian, espeak, folder, librispeech, wsj0
from spikesep.separation.data.corpora.mixture_lists import read_lists, recording_key
from spikesep.separation.data.corpora.screening import (
    Recording,
    Surveyed,
    measure_recordings,
    survey_recordings,
)
from spikesep.separation.data.corpora.splits import assign_splits
from spikesep.separation.data.corpora.table import SPLITS, Utterance, check_listable

CORPORA: dict[str, Callable[[CorpusConfig, Path, int, int], list[Recording]]] = {
    "debian": debian.recordings,
    "folder": folder.recordings,
    "librispeech": librispeech.recordings,
    "wsj0": wsj0.recordings,
    "espeak": espeak.recordings,
}
"""Each takes the settings, the folder of downloads, the seed and the number of processes."""


def list_utterances(
    config: CorpusConfig, downloads: Path, seed: int, n_jobs: int, n_speakers: int = 2
) -> tuple[list[Utterance], list[str]]:
    """Find or fetch the corpus, leave out what is not speech, and split it; or take what lists of mixtures name.

    Returns:
        the table of utterances, and notices for the user, one line each.

    Raises:
        SpikeSepError: the corpus cannot be had, or holds too few voices.
    """
    notices = []
    try:
        recordings = _recordings(config, downloads, seed, n_jobs)
    except debian.FetchError as error:
        if not config.fallback:
            raise
        notices.append(
            f"{error}; taking the {config.fallback} corpus instead, with its own choice of voices"
        )
        config = replace(
            config, name=config.fallback, fallback="", seen_speakers=[], unseen_speakers=[]
        )
        if config.name not in CORPORA:
            raise SpikeSepError(
                f"--corpus.fallback: {config.name} is none of {', '.join(CORPORA)}"
            ) from error
        recordings = _recordings(config, downloads, seed, n_jobs)
    if config.name == "espeak":
        notices.append("espeak voices are synthetic: results on them say little about people")
    if config.lists:
        kept, left_out = measure_recordings(
            _listed(recordings, config, n_speakers, notices), 0.0, n_jobs
        )
    else:
        survey = measure_recordings if config.as_published else survey_recordings
        kept, left_out = survey(recordings, config.min_seconds, n_jobs)
    if left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        notices.append(f"left out {left_out.total()} of {len(recordings)} files: {reasons}")
    own = {item.recording.split for item in kept}
    if config.lists or (config.as_published and own == set(SPLITS)):
        return [_as_split(item) for item in kept], notices
    if config.as_published:
        notices.append(
            "the corpus has no three splits of its own here; voices are held out instead"
        )
    table, split_notices = assign_splits(kept, config, seed)
    return table, notices + split_notices


def _recordings(config: CorpusConfig, downloads: Path, seed: int, n_jobs: int) -> list[Recording]:
    """Of the corpus and of those that are to be added; of voices of which their corpus keeps none, `splits` will."""
    if not config.also:
        return _recordings_of(config, downloads, seed, n_jobs)
    found = []
    for number, entry in enumerate([f"{config.name}:{config.root}", *config.also]):
        name, _, root = entry.partition(":")
        if name not in CORPORA:
            raise SpikeSepError(f"--corpus.also {entry}: {name} is none of {', '.join(CORPORA)}")
        own = _recordings_of(replace(config, name=name, root=root), downloads, seed, n_jobs)
        says = any(recording.unseen for recording in own)
        found += [
            replace(item, corpus=number, unseen=item.unseen if says else None) for item in own
        ]
    return found


def _recordings_of(
    config: CorpusConfig, downloads: Path, seed: int, n_jobs: int
) -> list[Recording]:
    found = CORPORA[config.name](config, downloads, seed, n_jobs)
    if not found:
        raise SpikeSepError(
            f"corpus {config.name}: no recording found under {config.root or downloads}; check the folder"
        )
    for recording in found:
        check_listable(recording.path)
    return found


def _listed(
    recordings: list[Recording], config: CorpusConfig, n_speakers: int, notices: list[str]
) -> list[Recording]:
    """The recordings that the lists name, each in its list's split."""
    known = {recording_key(recording.path): recording for recording in recordings}
    subsets = {recording.path.parts[-4] for recording in recordings}
    listed: dict[str, Recording] = {}
    lists, left_out = read_lists(config.lists, n_speakers, subsets)
    notices += left_out
    rows = [(split, row) for split, found in lists.items() for _, rows in found for row in rows]
    for split, row in rows:
        for name, key in zip(row.recordings, row.keys, strict=True):
            if key not in known:
                raise SpikeSepError(
                    f"{row.where}: {name} is not in {config.root}; complete the corpus there"
                )
            if key in listed and listed[key].split != split:
                raise SpikeSepError(
                    f"{row.where}: {name} is in {listed[key].split} too; a recording has one split"
                )
            listed[key] = replace(known[key], split=split, unseen=split == "tt")
    return list(listed.values())


def _as_split(item: Surveyed) -> Utterance:
    recording = item.recording
    return Utterance(
        item.utt_id,
        recording.path,
        recording.speaker,
        recording.sex,
        recording.split,
        item.duration,
    )
