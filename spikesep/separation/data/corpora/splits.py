"""Who is heard where: voices kept for the open condition go to `tt`, the others' utterances to `tr` and, a share of
each voice, to `cv`. Shared by all corpora, and the same on every machine for one seed.
"""

import random
from collections import Counter, defaultdict

from spikesep.errors import SpikeSepError
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora.screening import Surveyed
from spikesep.separation.data.corpora.table import Utterance, speaker_id

LEAST_OF_EACH_SEX = 2
CLOSED_SHARE = 0.1
"""Fraction of the utterances of each seen speaker that is held out for the closed condition."""
HELD_OUT_SHARE = 0.1
"""Of all voices, where a corpus does not say which ones are for the open condition."""


def assign_splits(
    surveyed: list[Surveyed], config: CorpusConfig, seed: int
) -> tuple[list[Utterance], list[str]]:
    """Give every utterance one split.

    Where hardly any voice has a second utterance, the closed condition cannot be made of voices that training hears;
    then `cv` gets voices of its own, and a notice says so.

    Returns:
        the table, and notices for the user, one line each.

    Raises:
        SpikeSepError: too few voices for a split, or a configured voice is not there or stands on both sides.
    """
    chance = random.Random(f"splits {seed}")
    sexes = {item.recording.speaker: item.recording.sex for item in surveyed}
    surveyed, unseen = _choose_voices(surveyed, config, sexes, chance)
    seen: dict[str, list[Surveyed]] = defaultdict(list)
    for item in surveyed:
        if item.recording.speaker not in unseen:
            seen[item.recording.speaker].append(item)
    if len(seen) < 2:
        raise SpikeSepError(
            f"corpus {config.name}: {len(seen)} voices are left to train on; two are needed, add speakers"
        )
    closed, notices = _closed_ids(seen, CLOSED_SHARE, sexes, chance)
    table = []
    for item in surveyed:
        speaker = item.recording.speaker
        split = "tt" if speaker in unseen else "cv" if item.utt_id in closed else "tr"
        table.append(
            Utterance(
                item.utt_id, item.recording.path, speaker, sexes[speaker], split, item.duration
            )
        )
    return table, notices


def _choose_voices(
    surveyed: list[Surveyed], config: CorpusConfig, sexes: dict[str, str], chance: random.Random
) -> tuple[list[Surveyed], set[str]]:
    """The utterances of the wanted voices, and which voices are unseen."""
    named_seen, named_unseen = (
        {speaker_id(name) for name in names}
        for names in (config.seen_speakers, config.unseen_speakers)
    )
    missing = sorted((named_seen | named_unseen) - sexes.keys())
    if missing:
        raise SpikeSepError(
            f"--corpus.seen_speakers, --corpus.unseen_speakers: no usable speech of {', '.join(missing)}; "
            f"there is {', '.join(sorted(sexes)[:20])}"
        )
    if named_seen & named_unseen:
        both = ", ".join(sorted(named_seen & named_unseen))
        raise SpikeSepError(
            f"--corpus.seen_speakers: {both} also stands in unseen_speakers; a voice has one side"
        )
    by_corpus = {item.recording.speaker: item.recording.unseen for item in surveyed}
    if named_unseen:
        unseen = named_unseen
    elif any(by_corpus.values()):
        unseen = {speaker for speaker, kept in by_corpus.items() if kept} - named_seen
        undecided = {s for s, kept in by_corpus.items() if kept is None}
        unseen |= _hold_out_of_each(surveyed, undecided, named_seen, chance)
    else:
        unseen = _hold_out_of_each(surveyed, set(sexes), named_seen, chance)
    _check_unseen(unseen, sexes, config)
    wanted = unseen | (named_seen or set(sexes))
    return [item for item in surveyed if item.recording.speaker in wanted], unseen


def _hold_out_of_each(
    surveyed: list[Surveyed], undecided: set[str], seen: set[str], chance: random.Random
) -> set[str]:
    """`_hold_out` of each corpus, so that adding a corpus leaves the choice in those before it as it was."""
    corpora: dict[int, dict[str, str]] = defaultdict(dict)
    for item in surveyed:
        if item.recording.speaker in undecided:
            corpora[item.recording.corpus][item.recording.speaker] = item.recording.sex
    unseen = set()
    for _, sexes in sorted(corpora.items()):
        unseen |= _hold_out(
            {s: sex for s, sex in sexes.items() if s not in seen}, len(sexes), chance
        )
    return unseen


def _hold_out(sexes: dict[str, str], n_voices: int, chance: random.Random) -> set[str]:
    """About a tenth of all voices, as many of each sex, at least two of each."""
    known = set(sexes.values()) & {"f", "m"}
    groups = sorted(known) or ["u"]
    each = max(LEAST_OF_EACH_SEX, round(HELD_OUT_SHARE * n_voices / len(groups)))
    return {
        speaker
        for group in groups
        for speaker in _shuffled((s for s, sex in sexes.items() if sex == group), chance)[:each]
    }


def _check_unseen(unseen: set[str], sexes: dict[str, str], config: CorpusConfig) -> None:
    """The open condition needs pairs of the same and of different sex; where no sex is known, just pairs."""
    counts = Counter(sexes[speaker] for speaker in unseen)
    needed = "fm" if set(sexes.values()) & {"f", "m"} else "u"
    short = [sex for sex in needed if counts[sex] < LEAST_OF_EACH_SEX]
    if short:
        names = {"f": "female", "m": "male", "u": "more"}
        raise SpikeSepError(
            f"corpus {config.name}: the open condition needs two {' and two '.join(names[s] for s in short)} voices, "
            f"it has {', '.join(sorted(unseen)) or 'none'}; add speakers, correct their sexes, or name others in "
            f"--corpus.unseen_speakers"
        )


def _closed_ids(
    seen: dict[str, list[Surveyed]], share: float, sexes: dict[str, str], chance: random.Random
) -> tuple[set[str], list[str]]:
    """Utterance ids of `cv`: `share` of each voice, at least one of a voice that has two."""
    closed, voices = set(), set()
    for speaker in sorted(seen):
        ids = _shuffled((item.utt_id for item in seen[speaker]), chance)
        count = min(len(ids) - 1, max(1, round(share * len(ids))))
        closed.update(ids[:count])
        voices.update([speaker] if count else [])
    if len(voices) >= min(len(seen), 4):
        return closed, []
    own = _hold_out({speaker: sexes[speaker] for speaker in seen}, len(seen), chance)
    if len(seen) - len(own) < 2:
        raise SpikeSepError(
            "the closed condition needs voices with two utterances or more; add recordings"
        )
    notice = (
        f"nearly every voice has one utterance only: the closed condition (cv) gets {len(own)} voices of its own, "
        "which training does not hear"
    )
    return {item.utt_id for speaker in own for item in seen[speaker]}, [notice]


def _shuffled(names, chance: random.Random) -> list[str]:
    names = sorted(names)
    chance.shuffle(names)
    return names
