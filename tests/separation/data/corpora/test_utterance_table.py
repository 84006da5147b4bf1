from dataclasses import replace
from pathlib import Path

import pytest

from spikesep.errors import SpikeSepError
from spikesep.separation.data.corpora.table import Utterance, read_table, speaker_id, write_table

ROW = Utterance("ann-1", Path("/x y/é.wav"), "ann", "f", "tr", 2.5)


def test_table_round_trips_sorted(tmp_path):
    rows = [Utterance("bob-2", Path("b.wav"), "bob", "m", "tt", 1.234567), ROW]
    write_table(tmp_path / "t.tsv", rows)
    assert read_table(tmp_path / "t.tsv") == rows[::-1]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("utt_id\t", "id\t", ":1: the header"),
        ("\tann\t", "\tann \t", ":2: speaker 'ann '"),
        ("ann-1", "bob-1", ":2: utterance id 'bob-1'"),
        ("ann-1", "ann-1 2", ":2: utterance id"),
        ("\tf\t", "\tx\t", ":2: sex 'x'"),
        ("\ttr\t", "\ttrain\t", ":2: split 'train'"),
        ("2.500000", "-1", ":2: duration '-1'"),
        ("2.500000", "nan", ":2: duration 'nan'"),
        ("2.500000", "long", ":2: duration 'long'"),
        ("\t2.500000", "", ":2: 5 fields where 6"),
        ("/x y/é.wav", "", ":2: the path is empty"),
    ],
)
def test_invalid_rows_are_reported_with_their_line(tmp_path, old, new, said):
    write_table(tmp_path / "t.tsv", [ROW])
    text = (tmp_path / "t.tsv").read_text()
    assert old in text
    (tmp_path / "t.tsv").write_text(text.replace(old, new, 1))
    with pytest.raises(SpikeSepError, match=f"t.tsv{said}"):
        read_table(tmp_path / "t.tsv")


def test_repeated_ids_and_missing_or_empty_tables_are_errors(tmp_path):
    write_table(tmp_path / "t.tsv", [ROW, ROW])
    with pytest.raises(SpikeSepError, match=r"t.tsv:3: .*occurs twice"):
        read_table(tmp_path / "t.tsv")
    write_table(tmp_path / "t.tsv", [])
    with pytest.raises(SpikeSepError, match="lists no utterance"):
        read_table(tmp_path / "t.tsv")
    with pytest.raises(SpikeSepError, match="spikesep-prepare corpus"):
        read_table(tmp_path / "absent.tsv")


@pytest.mark.parametrize(
    "path", ["/x/a\u2028b.wav", "/x/a\x85b.wav", "/x/a\x0cb.wav", "/x/a\rb.wav", "/x/ a\x1db .wav"]
)
def test_table_can_hold_unusual_characters(tmp_path, path):
    write_table(tmp_path / "t.tsv", [replace(ROW, path=Path(path))])
    assert read_table(tmp_path / "t.tsv") == [replace(ROW, path=Path(path))]


def test_table_written_by_windows_programs_is_read(tmp_path):
    write_table(tmp_path / "t.tsv", [ROW])
    text = (tmp_path / "t.tsv").read_text().replace("\n", "\r\n")
    (tmp_path / "t.tsv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_table(tmp_path / "t.tsv") == [ROW]


@pytest.mark.parametrize(
    ("name", "cleaned"), [("tuxpaint-bg", "tuxpaintbg"), ("es_co", "esco"), ("é", ""), ("19", "19")]
)
def test_speaker_ids_consist_of_letters_and_digits(name, cleaned):
    assert speaker_id(name) == cleaned


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "a\udcffb"], ids=["tab", "newline", "not UTF-8"])
def test_paths_that_no_table_can_hold_are_not_written(tmp_path, name):
    with pytest.raises(SpikeSepError, match="rename it"):
        write_table(tmp_path / "t.tsv", [replace(ROW, path=tmp_path / name)])
    assert not (tmp_path / "t.tsv").exists()
