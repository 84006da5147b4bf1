"""Fixtures of the tests of the hub."""

import pytest


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder, without shipped models."""
    from spikesep.separation.model import hub as hub_module

    monkeypatch.setattr(hub_module, "PRETRAINED", tmp_path / "pretrained")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def hub(here, tmp_path, monkeypatch):
    """Replace the Hugging Face hub by a fake one in an empty folder."""
    import huggingface_hub
    from helpers.web.fake_hub import FakeHub

    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    return fake
