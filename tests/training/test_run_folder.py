import pytest

from spikesep.errors import SpikeSepError
from spikesep.training.run_folder import claim, hash_of_files

SETTINGS = {"seed": 1, "ann": {"epochs": 3, "range": (0, 5)}}


def test_the_same_settings_go_on(tmp_path):
    claim(tmp_path, "ann", SETTINGS)
    claim(tmp_path, "ann", SETTINGS)


def test_other_settings_are_refused_by_name(tmp_path):
    claim(tmp_path, "ann", SETTINGS)
    with pytest.raises(SpikeSepError, match=r"ann\.epochs = 3, not 4"):
        claim(tmp_path, "ann", {**SETTINGS, "ann": {"epochs": 4, "range": (0, 5)}})
    claim(tmp_path, "ann", SETTINGS)


def test_stages_are_claimed_apart(tmp_path):
    claim(tmp_path, "ann", SETTINGS)
    claim(tmp_path, "snn", {"seed": 2})


def test_a_hash_is_of_the_contents_in_order(tmp_path):
    for name, text in (("a", "x"), ("b", "y"), ("c", "x")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / n for n in "abc")
    assert hash_of_files([a, b]) == hash_of_files([c, b]) != hash_of_files([b, a])
