import shutil

import pytest

from spikesep.errors import SpikeSepError
from spikesep.separation.config import CorpusConfig
from spikesep.separation.data.corpora import espeak, list_utterances


def test_synthetic_voices_differ_and_pass_screening(tmp_path, monkeypatch):
    monkeypatch.setattr(espeak, "SENTENCES_PER_VOICE", 4)
    config = CorpusConfig(name="espeak", min_seconds=1.0)
    table, notices = list_utterances(config, tmp_path, 0, 1)
    sexes = {row.speaker: row.sex for row in table}
    for split in ("tr", "cv", "tt"):
        speakers = {row.speaker for row in table if row.split == split}
        assert all(sum(sexes[speaker] == sex for speaker in speakers) >= 2 for sex in "fm")
    assert len(table) == 4 * len(espeak.VOICES)  # none was rejected
    assert any("synthetic" in notice for notice in notices)
    first = min(row.path for row in table)
    stamp = first.stat().st_mtime_ns
    shutil.rmtree(first.parent.parent / "robotleo")
    again, _ = list_utterances(config, tmp_path, 0, 1)
    assert again == table
    assert first.stat().st_mtime_ns == stamp


def test_unknown_synthetic_voices_are_rejected(tmp_path):
    with pytest.raises(SpikeSepError, match="no synthetic voice zoe"):
        espeak.recordings(CorpusConfig(unseen_speakers=["zoe"]), tmp_path, 0, 1)
