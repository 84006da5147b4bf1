"""Speech corpora, one module each. A module finds or makes the files of its voices and says whose they are; listening
to them and giving each its split is shared. What comes out is one table of utterances.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from spikesep.errors import SpikeSepError
from spikesep.separation.config import CorpusConfig
from spikesep.separation.corpora import debian, espeak, folder, librispeech
from spikesep.separation.corpora.splits import assign_splits
from spikesep.separation.corpora.survey import Recording, survey_recordings
from spikesep.separation.corpora.table import Utterance

CORPORA: dict[str, Callable[[CorpusConfig, Path, int, int], list[Recording]]] = {
    "debian": debian.recordings,
    "folder": folder.recordings,
    "librispeech": librispeech.recordings,
    "espeak": espeak.recordings,
}
"""Each takes the settings, the folder of downloads, the seed and the number of processes."""


def list_utterances(config: CorpusConfig, downloads: Path, seed: int, n_jobs: int) -> tuple[list[Utterance], list[str]]:
    """Find or fetch the corpus, leave out what is not speech, and split it.

    Returns:
        the table of utterances, and notices for the user, one line each.

    Raises:
        SpikeSepError: the corpus cannot be had, or holds too few voices.
    """
    notices = []
    try:
        recordings = CORPORA[config.name](config, downloads, seed, n_jobs)
    except debian.FetchError as error:
        if not config.fallback:
            raise
        notices.append(f"{error}; taking the {config.fallback} corpus instead, with its own choice of voices")
        config = replace(config, name=config.fallback, fallback="", seen_speakers=[], unseen_speakers=[])
        if config.name not in CORPORA:
            raise SpikeSepError(f"--corpus.fallback: {config.name} is none of {', '.join(CORPORA)}") from error
        recordings = CORPORA[config.name](config, downloads, seed, n_jobs)
    if not recordings:
        raise SpikeSepError(
            f"corpus {config.name}: no recording found under {config.root or downloads}; check the folder"
        )
    if config.name == "espeak":
        notices.append("espeak voices are synthetic: results on them say little about people")
    kept, left_out = survey_recordings(recordings, config.min_seconds, n_jobs)
    if left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        notices.append(f"left out {left_out.total()} of {len(recordings)} files: {reasons}")
    table, split_notices = assign_splits(kept, config, seed)
    return table, notices + split_notices
