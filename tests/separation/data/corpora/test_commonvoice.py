from pathlib import Path

import pytest
from helpers.sound.speech import write_folder_corpus

from spikesep.errors import SpikeSepError
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora import _draw_per_speaker, commonvoice, list_utterances
from spikesep.separation.data.corpora.screening import Recording
from spikesep.separation.data.corpora.table import read_table, write_table

HEADER = "client_id\tpath\tsentence\tage\tgender\n"
ANNA, BEN = "a1" * 64, "b2" * 64


def write_language(root, name, rows):
    clips = root / name / "clips"
    clips.mkdir(parents=True)
    lines = []
    for client, clip, gender in rows:
        (clips / clip).touch()
        lines.append(f"{client}\t{clip}\tA sentence.\ttwenties\t{gender}\n")
    (root / name / "validated.tsv").write_text(HEADER + "".join(lines), encoding="utf-8")


@pytest.fixture
def release(tmp_path):
    write_language(
        tmp_path,
        "de",
        [(ANNA, "de_1.mp3", "female_feminine"), (BEN, "de_2.mp3", ""), (BEN, "de_3.mp3", "male")],
    )
    write_language(tmp_path, "fr", [(ANNA, "fr_1.mp3", "female"), ("c3" * 64, "fr_2.mp3", "other")])
    return tmp_path


def find(root):
    return commonvoice.recordings(CorpusConfig(name="commonvoice", root=str(root)), root, 0, 1)


def test_speakers_of_all_languages_are_listed_with_their_sex(release):
    found = find(release)
    assert [(r.path.name, r.speaker, r.sex) for r in found] == [
        ("de_1.mp3", ANNA[:16], "f"),
        ("de_2.mp3", BEN[:16], "m"),
        ("de_3.mp3", BEN[:16], "m"),
        ("fr_1.mp3", ANNA[:16], "f"),
        ("fr_2.mp3", "c3" * 8, "u"),
    ]
    assert all(recording.path.is_file() for recording in found)
    assert len(find(release / "de")) == 3


def test_contradictory_sexes_are_unknown(tmp_path):
    write_language(tmp_path, "it", [(ANNA, "1.mp3", "female"), (ANNA, "2.mp3", "male")])
    assert {recording.sex for recording in find(tmp_path)} == {"u"}


def test_faults_are_one_line_errors(tmp_path, release):
    with pytest.raises(SpikeSepError, match=r"validated\.tsv: missing; --corpus\.root is"):
        find(release / "de" / "clips")
    path = release / "de" / "validated.tsv"
    path.write_text("path\tgender\n1.mp3\tmale\n")
    with pytest.raises(SpikeSepError, match=r"validated\.tsv:1: no column client_id"):
        find(release)
    path.write_text(f"{HEADER}\t1.mp3\tText\t\t\n")
    with pytest.raises(SpikeSepError, match=r"validated\.tsv:2: no client_id or path"):
        find(release)


def test_recordings_per_speaker_are_limited_by_the_seed():
    found = [
        Recording(Path(f"{speaker}{k}.wav"), str(k), speaker, "u")
        for speaker in "ab"
        for k in "xyz"
    ]
    drawn = [_draw_per_speaker(found, 2, seed) for seed in range(8)]
    assert all(sorted(r.speaker for r in each) == list("aabb") for each in drawn)
    assert _draw_per_speaker(found[::-1], 2, 0) == drawn[0]
    assert len({frozenset(r.path for r in each) for each in drawn}) > 1
    assert _draw_per_speaker(found, 0, 0) == found


def test_namesakes_in_two_corpora_are_two_speakers_and_keep_their_corpus(tmp_path):
    one, two = (write_folder_corpus(tmp_path / name) for name in ("one", "two"))
    config = CorpusConfig(
        name="folder", root=str(one), as_published=True, min_seconds=0.5, also=[f"folder:{two}"]
    )
    table, _ = list_utterances(config, tmp_path, 0, 1)
    assert {(row.speaker, row.corpus) for row in table} == {
        *((f"spk{n}", 0) for n in range(8)),
        *((f"spk{n}c1", 1) for n in range(8)),
    }
    assert all((row.corpus == 1) == str(row.path).startswith(str(two)) for row in table)
    write_table(tmp_path / "table.tsv", table)
    assert {row.corpus for row in read_table(tmp_path / "table.tsv")} == {0, 1}


def test_row_without_a_speaker_is_named(tmp_path):
    (tmp_path / "validated.tsv").write_text("path\tclient_id\nde_1.mp3\n", encoding="utf-8")
    with pytest.raises(SpikeSepError, match=r"validated.tsv:2: no client_id or path"):
        find(tmp_path)
