from dataclasses import replace

import pytest
from helpers.paths import SHARED
from helpers.sound.speech import write_sentences

from spikesep.errors import SpikeSepError
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora import list_utterances

LIBRISPEECH = SHARED / "corpora" / "LibriSpeech"


def librispeech(root, subsets):
    """Write a tree in the layout of LibriSpeech; `subsets` maps subsets to sexes ("FFMM")."""
    lines, number = ["; a comment with | in it"], 100
    for subset, sexes in subsets.items():
        for sex in sexes:
            number += 1
            lines.append(f"{number:<4} | {sex} | {subset} | 25.1 | A | Name")
            folder = root / subset / str(number) / "7"
            write_sentences([folder / f"{number}-7-{n:04d}.flac" for n in range(2)])
    (root / "SPEAKERS.TXT").write_text("\n".join(lines) + "\n")
    return CorpusConfig(name="librispeech", root=str(root), min_seconds=0.5)


def test_voices_of_test_subsets_are_unseen(tmp_path):
    config = librispeech(tmp_path, {"train-clean-100": "FFMM", "test-clean": "FFMM"})
    table, _ = list_utterances(config, tmp_path, 0, 1)
    assert {row.speaker for row in table if row.split == "tt"} == {"105", "106", "107", "108"}
    assert {row.speaker: row.sex for row in table}["103"] == "m"
    assert "101-101_7_0000" in {row.utt_id for row in table}


def test_voices_are_held_out_without_test_subsets(tmp_path):
    config = librispeech(tmp_path, {"train-clean-100": "FFFFMMMM"})
    table, _ = list_utterances(config, tmp_path, 0, 1)
    assert sorted({row.speaker: row.sex for row in table if row.split == "tt"}.values()) == [
        "f",
        "f",
        "m",
        "m",
    ]
    (tmp_path / "SPEAKERS.TXT").write_text("101 F train\n")
    with pytest.raises(SpikeSepError, match=r"SPEAKERS.TXT:1: "):
        list_utterances(config, tmp_path, 0, 1)
    (tmp_path / "SPEAKERS.TXT").unlink()
    with pytest.raises(SpikeSepError, match=r"SPEAKERS.TXT: missing"):
        list_utterances(config, tmp_path, 0, 1)


def test_combined_corpora_keep_or_draw_their_own_unseen_voices(tmp_path):
    config = librispeech(tmp_path / "a", {"train-clean-100": "FFMM", "test-clean": "FFMM"})
    for number, name in enumerate(["ann", "bea", "cid", "dov", "eve", "fay"]):
        write_sentences([tmp_path / "b" / name / f"{number}{n}.wav" for n in range(2)])
    table, _ = list_utterances(replace(config, also=[f"folder:{tmp_path / 'b'}"]), tmp_path, 0, 1)
    unseen = {row.speaker for row in table if row.split == "tt"}
    assert {"105", "106", "107", "108"} < unseen
    assert len(unseen - {"105", "106", "107", "108"}) == 2
    assert {row.speaker for row in table if row.split == "tr"} > {"101", "102", "103", "104"}
    with pytest.raises(SpikeSepError, match=r"--corpus.also nowhere: nowhere is none of debian"):
        list_utterances(replace(config, also=["nowhere"]), tmp_path, 0, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpikeSepError, match="empty"):
        list_utterances(replace(config, also=[f"folder:{tmp_path / 'empty'}"]), tmp_path, 0, 1)


@pytest.mark.skipif(
    not LIBRISPEECH.is_dir(), reason="no ../shared/corpora/LibriSpeech beside the checkout"
)
def test_a_tenth_of_the_voices_of_the_librispeech_slice_is_held_out(tmp_path):
    config = CorpusConfig(name="librispeech", root=str(LIBRISPEECH), min_seconds=1.5)
    table, _ = list_utterances(config, tmp_path, 0, 1)
    training, closed, held_out = (
        {row.speaker for row in table if row.split == split} for split in ("tr", "cv", "tt")
    )
    assert len(training | closed | held_out) == 251
    assert not held_out & (training | closed)
    assert closed <= training
    assert len(held_out) == 26
