"""Fixtures of the tests of saved models."""

import shutil

import pytest
from helpers.saved_models import save_both


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with `model/` and `model.safetensors`, the same model."""
    return save_both(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def place(whole, tmp_path):
    """A copy of it that the test may change."""
    shutil.copytree(whole, tmp_path / "here")
    return tmp_path / "here"
