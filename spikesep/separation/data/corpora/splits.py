"""Assignment of utterances to splits, shared by all corpora and reproducible from a seed.

Unseen voices go to `tt`. Of every other voice, a share of the utterances goes to `cv` and the rest
to `tr`.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable

from spikesep.errors import SpikeSepError
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora.screening import ScreenedRecording
from spikesep.separation.data.corpora.table import Utterance, speaker_id

MIN_UNSEEN_OF_EACH_SEX = 2
CLOSED_SHARE = 0.1
"""Share of the utterances of each seen voice that is held out for the closed condition."""
HELD_OUT_SHARE = 0.1
"""Share of voices that become unseen if the corpus does not reserve any."""


def assign_splits(
    screened: list[ScreenedRecording], config: CorpusConfig, seed: int
) -> tuple[list[Utterance], list[str]]:
    """Assign a split to every utterance.

    If hardly any voice has a second utterance, `cv` gets voices of its own instead of utterances of
    voices heard in training, and a notice says so.

    Returns:
        The table of utterances, and one-line notices for the user.

    Raises:
        SpikeSepError: If a split has too few voices, or a configured voice is missing or configured
            as both seen and unseen.
    """
    rng = random.Random(f"splits {seed}")
    sexes = {item.recording.speaker: item.recording.sex for item in screened}
    screened, unseen = _choose_voices(screened, config, sexes, rng)
    seen: dict[str, list[ScreenedRecording]] = defaultdict(list)
    for item in screened:
        if item.recording.speaker not in unseen:
            seen[item.recording.speaker].append(item)
    if len(seen) < 2:
        raise SpikeSepError(
            f"corpus {config.name}: {len(seen)} voices are left to train on; "
            "two are needed, add speakers"
        )
    closed, notices = _closed_ids(seen, CLOSED_SHARE, sexes, rng)
    table = []
    for item in screened:
        speaker = item.recording.speaker
        split = "tt" if speaker in unseen else "cv" if item.utt_id in closed else "tr"
        row = Utterance(
            item.utt_id,
            item.recording.path,
            speaker,
            sexes[speaker],
            split,
            item.duration,
            item.recording.corpus,
        )
        table.append(row)
    return table, notices


def _choose_voices(
    screened: list[ScreenedRecording],
    config: CorpusConfig,
    sexes: dict[str, str],
    rng: random.Random,
) -> tuple[list[ScreenedRecording], set[str]]:
    """Return the utterances of the selected voices, and the unseen voices."""
    named_seen, named_unseen = _configured_voices(config, sexes)
    by_corpus = {item.recording.speaker: item.recording.unseen for item in screened}
    if named_unseen:
        unseen = named_unseen
    elif any(by_corpus.values()):
        unseen = {speaker for speaker, kept in by_corpus.items() if kept} - named_seen
        undecided = {s for s, kept in by_corpus.items() if kept is None}
        unseen |= _hold_out_from_each(screened, undecided, named_seen, rng)
    else:
        unseen = _hold_out_from_each(screened, set(sexes), named_seen, rng)
    _check_unseen(unseen, sexes, config)
    selected = unseen | (named_seen or set(sexes))
    return [item for item in screened if item.recording.speaker in selected], unseen


def _configured_voices(config: CorpusConfig, sexes: dict[str, str]) -> tuple[set[str], set[str]]:
    """Return the ids of the voices configured as seen and as unseen.

    Raises:
        SpikeSepError: If a voice is missing, or configured as both.
    """
    seen = {speaker_id(name) for name in config.seen_speakers}
    unseen = {speaker_id(name) for name in config.unseen_speakers}
    missing = sorted((seen | unseen) - sexes.keys())
    if missing:
        raise SpikeSepError(
            "--corpus.seen_speakers, --corpus.unseen_speakers: "
            f"no usable speech of {', '.join(missing)}; "
            f"available are {', '.join(sorted(sexes)[:20])}"
        )
    if seen & unseen:
        both = ", ".join(sorted(seen & unseen))
        raise SpikeSepError(
            f"--corpus.seen_speakers: {both} is in unseen_speakers too; remove it from one of them"
        )
    return seen, unseen


def _hold_out_from_each(
    screened: list[ScreenedRecording], undecided: set[str], seen: set[str], rng: random.Random
) -> set[str]:
    """Apply `_hold_out` to each corpus, so that adding one does not change those before it."""
    corpora: dict[int, dict[str, str]] = defaultdict(dict)
    for item in screened:
        if item.recording.speaker in undecided:
            corpora[item.recording.corpus][item.recording.speaker] = item.recording.sex
    unseen = set()
    for _, sexes in sorted(corpora.items()):
        candidates = {s: sex for s, sex in sexes.items() if s not in seen}
        unseen |= _hold_out(candidates, len(sexes), rng)
    return unseen


def _hold_out(sexes: dict[str, str], n_voices: int, rng: random.Random) -> set[str]:
    """Draw about a tenth of all voices, equally many of each sex and at least two of each."""
    known = set(sexes.values()) & {"f", "m"}
    groups = sorted(known) or ["u"]
    each = max(MIN_UNSEEN_OF_EACH_SEX, round(HELD_OUT_SHARE * n_voices / len(groups)))
    return {
        speaker
        for group in groups
        for speaker in _shuffled((s for s, sex in sexes.items() if sex == group), rng)[:each]
    }


def _check_unseen(unseen: set[str], sexes: dict[str, str], config: CorpusConfig) -> None:
    """Check that the open condition has pairs of same and of different sex, if sexes are known.

    Raises:
        SpikeSepError: If it has too few voices.
    """
    counts = Counter(sexes[speaker] for speaker in unseen)
    needed = "fm" if set(sexes.values()) & {"f", "m"} else "u"
    short = [sex for sex in needed if counts[sex] < MIN_UNSEEN_OF_EACH_SEX]
    if short:
        names = {"f": "female", "m": "male", "u": "more"}
        raise SpikeSepError(
            f"corpus {config.name}: the open condition needs "
            f"two {' and two '.join(names[s] for s in short)} voices, "
            f"it has {', '.join(sorted(unseen)) or 'none'}; "
            "add speakers, correct their sexes, or name others in --corpus.unseen_speakers"
        )


def _closed_ids(
    seen: dict[str, list[ScreenedRecording]],
    share: float,
    sexes: dict[str, str],
    rng: random.Random,
) -> tuple[set[str], list[str]]:
    """Draw the utterance ids of `cv`: `share` of each voice, at least one if it has two."""
    closed, voices = set(), set()
    for speaker in sorted(seen):
        ids = _shuffled((item.utt_id for item in seen[speaker]), rng)
        count = min(len(ids) - 1, max(1, round(share * len(ids))))
        closed.update(ids[:count])
        voices.update([speaker] if count else [])
    if len(voices) >= min(len(seen), 4):
        return closed, []
    own = _hold_out({speaker: sexes[speaker] for speaker in seen}, len(seen), rng)
    if len(seen) - len(own) < 2:
        raise SpikeSepError(
            "the closed condition needs voices with two utterances or more; add recordings"
        )
    notice = (
        f"nearly every voice has one utterance only: the closed condition (cv) gets {len(own)} "
        "voices of its own, which training does not hear"
    )
    return {item.utt_id for speaker in own for item in seen[speaker]}, [notice]


def _shuffled(names: Iterable[str], rng: random.Random) -> list[str]:
    ordered = sorted(names)
    rng.shuffle(ordered)
    return ordered
