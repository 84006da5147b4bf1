import pytest

from spikesep.errors import SpikeSepError
from spikesep.files import hash_files, read_json, write_json
from spikesep.training.config import PretrainConfig
from spikesep.training.records.run_folder import claim

SETTINGS = {"seed": 1, "train": {"epochs": 3, "range": (0, 5)}}


def test_same_settings_are_accepted_and_others_refused_by_name(tmp_path):
    claim(tmp_path, "ann", SETTINGS)
    with pytest.raises(SpikeSepError, match=r"train\.epochs = 3, not 4"):
        claim(tmp_path, "ann", {**SETTINGS, "train": {"epochs": 4, "range": (0, 5)}})
    claim(tmp_path, "ann", SETTINGS)


def test_setting_unknown_to_the_record_must_have_its_default(tmp_path):
    record = PretrainConfig(epochs=3)
    claim(tmp_path, "ann", {"train": record})
    path = tmp_path / "settings" / "ann.json"
    written = read_json(path)
    assert written["train"].pop("optimizer") == "adam"
    write_json(path, written)
    claim(tmp_path, "ann", {"train": record})
    with pytest.raises(SpikeSepError, match=r"train\.optimizer = adam, not muon"):
        claim(tmp_path, "ann", {"train": PretrainConfig(epochs=3, optimizer="muon")})
    with pytest.raises(SpikeSepError, match=r"train\.epochs = 3, not 40"):
        claim(tmp_path, "ann", {"train": PretrainConfig()})


def test_stages_have_separate_records(tmp_path):
    claim(tmp_path, "ann", SETTINGS)
    claim(tmp_path, "snn", {"seed": 2})


def test_hash_of_files_depends_on_contents_and_order(tmp_path):
    for name, text in (("a", "x"), ("b", "y"), ("c", "x")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / n for n in "abc")
    assert hash_files([a, b]) == hash_files([c, b]) != hash_files([b, a])
