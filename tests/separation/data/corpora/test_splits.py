from pathlib import Path

import pytest

from spikesep.errors import SpikeSepError
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora.screening import Recording, ScreenedRecording
from spikesep.separation.data.corpora.splits import assign_splits


def screened(voices, per_voice=10, unseen=None):
    return [
        ScreenedRecording(
            Recording(Path(f"/{v}/{n}"), str(n), v, sex, unseen and v in unseen),
            f"{v}-{n}",
            2.0 + n,
        )
        for v, sex in voices.items()
        for n in range(per_voice)
    ]


MANY = {f"{sex}{n}": sex for sex in "fm" for n in range(6)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("per_voice", [1, 2, 3, 10])
def test_splits_are_disjoint_and_unseen_voices_are_in_tt_only(seed, per_voice):
    table, notices = assign_splits(screened(MANY, per_voice), CorpusConfig(name="folder"), seed)
    assert len({row.utt_id for row in table}) == len(table) == 12 * per_voice
    voices = {
        split: {row.speaker for row in table if row.split == split} for split in ("tr", "cv", "tt")
    }
    assert not voices["tt"] & (voices["tr"] | voices["cv"])
    for sex in "fm":
        assert sum(MANY[speaker] == sex for speaker in voices["tt"]) >= 2
    if per_voice == 1:
        assert not voices["tr"] & voices["cv"]
        assert len(voices["cv"]) >= 2
        assert "one utterance only" in notices[0]
    else:
        assert voices["tr"] == voices["cv"]
        assert notices == []


def test_closed_share_applies_to_each_voice():
    table, _ = assign_splits(screened(MANY, 20), CorpusConfig(name="folder"), 0)
    for speaker in {row.speaker for row in table if row.split != "tt"}:
        assert sum(row.split == "cv" for row in table if row.speaker == speaker) == 2


def test_splits_depend_on_the_seed_and_not_on_the_order_of_files():
    config, found = CorpusConfig(name="folder"), screened(MANY)
    table = sorted(assign_splits(found, config, 1)[0], key=lambda row: row.utt_id)
    assert table == sorted(assign_splits(found[::-1], config, 1)[0], key=lambda row: row.utt_id)
    assert table != sorted(assign_splits(found, config, 2)[0], key=lambda row: row.utt_id)


def test_unseen_voices_can_be_set_by_corpus_or_settings():
    table, _ = assign_splits(
        screened(MANY, unseen={"f0", "f1", "m0", "m1"}), CorpusConfig(name="folder"), 0
    )
    assert {row.speaker for row in table if row.split == "tt"} == {"f0", "f1", "m0", "m1"}
    config = CorpusConfig(
        name="folder", unseen_speakers=["f-2", "f3", "m2", "m3"], seen_speakers=["f4", "m4"]
    )
    table, _ = assign_splits(screened(MANY, unseen={"f0"}), config, 0)
    assert {row.speaker for row in table if row.split == "tt"} == {"f2", "f3", "m2", "m3"}
    assert {row.speaker for row in table if row.split != "tt"} == {"f4", "m4"}


def test_voices_of_unknown_sex_are_held_out():
    table, _ = assign_splits(
        screened({f"s{n}": "u" for n in range(5)}), CorpusConfig(name="folder"), 0
    )
    assert len({row.speaker for row in table if row.split == "tt"}) == 2


@pytest.mark.parametrize(
    ("voices", "settings", "said"),
    [
        (MANY, {"unseen_speakers": ["f1", "f2"]}, "two male voices"),
        (MANY, {"unseen_speakers": ["f1", "m2"]}, "two female and two male voices"),
        (MANY, {"unseen_speakers": ["zoe"]}, "no usable speech of zoe"),
        (MANY, {"unseen_speakers": ["f1"], "seen_speakers": ["f1"]}, "remove it from one of them"),
        ({"a": "f", "b": "f", "c": "f", "d": "m"}, {}, "two male voices"),
        ({"a": "f", "b": "f", "c": "m", "d": "m"}, {}, "0 voices are left to train"),
        ({"a": "u", "b": "u", "c": "u"}, {}, "1 voices are left to train"),
    ],
)
def test_invalid_choices_of_voices_are_one_line_errors(voices, settings, said):
    with pytest.raises(SpikeSepError, match=said):
        assign_splits(screened(voices), CorpusConfig(name="folder", **settings), 0)


def test_adding_a_corpus_keeps_the_unseen_voices_of_the_first():
    def screened(corpus, n):
        return [
            ScreenedRecording(
                Recording(
                    Path(f"{corpus}/{k}.wav"), "a", f"{corpus}s{k}", "fm"[k % 2], corpus=corpus
                ),
                f"{corpus}s{k}-{u}",
                2.0,
            )
            for k in range(n)
            for u in range(2)
        ]

    def unseen(corpora):
        table, _ = assign_splits(corpora, CorpusConfig(), seed=0)
        return {row.speaker for row in table if row.split == "tt"}

    alone, both = unseen(screened(0, 60)), unseen(screened(0, 60) + screened(1, 40))
    assert alone < both
    assert len(alone) == 6
    assert {speaker[0] for speaker in both - alone} == {"1"}
