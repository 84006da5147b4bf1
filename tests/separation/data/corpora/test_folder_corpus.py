import shutil

import pytest
from helpers.sound.speech import write_folder_corpus

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import AUDIO_SUFFIXES
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora import folder, list_utterances


@pytest.fixture
def folder_corpus(tmp_path):
    return write_folder_corpus(tmp_path / "corpus")


def test_each_folder_is_a_speaker(tmp_path, folder_corpus):
    config = CorpusConfig(name="folder", root=str(folder_corpus), min_seconds=0.5)
    table, notices = list_utterances(config, tmp_path, 0, 1)
    assert len(table) == 16
    assert {row.speaker: row.sex for row in table} == {f"spk{n}": "fmfmfmfu"[n] for n in range(8)}
    assert notices == []
    assert all(row.path.is_file() for row in table)
    assert "spk0-deep_1" in {row.utt_id for row in table}


def test_every_readable_format_is_listed(tmp_path):
    names = {f"take{k}{suffix.upper()}" for k, suffix in enumerate(AUDIO_SUFFIXES)}
    for name in {*names, "notes.txt", "take.raw"}:
        touch = tmp_path / "anna" / name
        touch.parent.mkdir(exist_ok=True)
        touch.touch()
    found = folder.recordings(CorpusConfig(name="folder", root=str(tmp_path)), tmp_path, 0, 1)
    assert {recording.path.name for recording in found} == names
    assert {".wav", ".m4a", ".amr", ".3gp", ".sph", ".wma"} <= set(AUDIO_SUFFIXES)


def test_invalid_folders_are_one_line_errors(tmp_path, folder_corpus):
    def listing(**settings):
        return list_utterances(CorpusConfig(name="folder", **settings), tmp_path, 0, 1)

    with pytest.raises(SpikeSepError, match=r"--corpus.root: nothing"):
        listing()
    with pytest.raises(SpikeSepError, match=r"absent is not a folder"):
        listing(root=str(tmp_path / "absent"))
    (folder_corpus / "speakers.tsv").write_bytes(b"spk_\xe9\tf\n")
    with pytest.raises(SpikeSepError, match=r"speakers.tsv: cannot be read .*UTF-8"):
        listing(root=str(folder_corpus))
    (folder_corpus / "speakers.tsv").write_text("spk_0\tf\nspk_1 m\n")
    with pytest.raises(SpikeSepError, match=r"speakers.tsv:2: "):
        listing(root=str(folder_corpus))
    (folder_corpus / "speakers.tsv").unlink()
    (folder_corpus / "spk-0").mkdir()
    with pytest.raises(SpikeSepError, match="rename it"):
        listing(root=str(folder_corpus))
    (folder_corpus / "spk-0").rmdir()
    (folder_corpus / "语").mkdir()
    with pytest.raises(SpikeSepError, match="has no Latin letter or digit; rename it"):
        listing(root=str(folder_corpus))
    (tmp_path / "void").mkdir()
    with pytest.raises(SpikeSepError, match="no recording found"):
        listing(root=str(tmp_path / "void"))


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "a\udcffb"], ids=["tab", "newline", "not UTF-8"])
def test_recordings_whose_path_no_list_can_hold_are_rejected(tmp_path, folder_corpus, name):
    path = folder_corpus / "spk_0" / "deep" / f"{name}.flac"
    shutil.copy(path.with_name("0.flac"), path)
    with pytest.raises(
        SpikeSepError, match=r"spk_0/deep/a.*: a list cannot hold this path .*; rename it"
    ):
        list_utterances(CorpusConfig(name="folder", root=str(folder_corpus)), tmp_path, 0, 1)
