import pytest

from spikesep.errors import SpikeSepError
from spikesep.files import hash_files, read_json, write_json
from spikesep.training.config import PretrainConfig
from spikesep.training.records.run_folder import claim

SETTINGS = {"seed": 1, "ann": {"epochs": 3, "range": (0, 5)}}


def test_the_same_settings_go_on(tmp_path):
    claim(tmp_path, "ann", SETTINGS)
    claim(tmp_path, "ann", SETTINGS)


def test_other_settings_are_refused_by_name(tmp_path):
    claim(tmp_path, "ann", SETTINGS)
    with pytest.raises(SpikeSepError, match=r"ann\.epochs = 3, not 4"):
        claim(tmp_path, "ann", {**SETTINGS, "ann": {"epochs": 4, "range": (0, 5)}})
    claim(tmp_path, "ann", SETTINGS)


def test_a_setting_that_is_new_since_goes_on_at_its_default_alone(tmp_path):
    record = PretrainConfig(epochs=3)
    claim(tmp_path, "ann", {"ann": record})
    path = tmp_path / "settings" / "ann.json"
    written = read_json(path)
    assert written["ann"].pop("optimizer") == "adam"
    write_json(path, written)
    claim(tmp_path, "ann", {"ann": record})
    with pytest.raises(SpikeSepError, match=r"ann\.optimizer = adam, not muon"):
        claim(tmp_path, "ann", {"ann": PretrainConfig(epochs=3, optimizer="muon")})
    with pytest.raises(SpikeSepError, match=r"ann\.epochs = 3, not 40"):
        claim(tmp_path, "ann", {"ann": PretrainConfig()})


def test_stages_are_claimed_apart(tmp_path):
    claim(tmp_path, "ann", SETTINGS)
    claim(tmp_path, "snn", {"seed": 2})


def test_a_hash_is_of_the_contents_in_order(tmp_path):
    for name, text in (("a", "x"), ("b", "y"), ("c", "x")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / n for n in "abc")
    assert hash_files([a, b]) == hash_files([c, b]) != hash_files([b, a])
