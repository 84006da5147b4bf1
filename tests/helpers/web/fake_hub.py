"""A fake of the Hugging Face hub, so that tests need no network."""

import shutil
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import errors

import spikesep
from helpers.separators import tiny_separator
from spikesep.errors import SpikeSepError
from spikesep.separation.model.hub import find_model
from spikesep.separation.model.separator import KIND, save_separator
from spikesep.training.records.model_folder import read_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ALL_FILES = ["config.json", "model.safetensors", "report.json", "README.md"]


def save_model(path: Path, seed: int = 0) -> Path:
    """Save a tiny spiking separator with a report and a card; return its path."""
    separator = tiny_separator("snn", seed=seed, n_steps=4)
    save_separator(separator, path, [{"layer": "bottleneck"}], "# A card\n")
    return path


def is_same(path: Path, other: Path) -> bool:
    """Whether two saved models have the same checksum."""
    return read_model(path, KIND).settings["sha256"] == read_model(other, KIND).settings["sha256"]


def error_line(*arguments: Any, call=find_model, **named: Any) -> str:
    """Return the message of the SpikeSepError that a call raises, which must be one line."""
    with pytest.raises(SpikeSepError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def http_error(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    """Return an error of the hub with a message of several lines."""
    return kind(
        f"{status} Client Error.\n\nmore",
        response=httpx2.Response(status, request=httpx2.Request("GET", "http://hub")),
    )


class FakeHub:
    """Repositories as subfolders of a folder.

    Attributes:
        folder: contains the repositories.
        calls: calls so far, as tuples of name and arguments.
        fails: error that each call raises, by its name.
    """

    def __init__(self, folder: Path):
        self.folder, self.calls, self.fails = folder, [], {}

    def __call__(self, **options):
        assert options == {"library_name": "spikesep", "library_version": spikesep.__version__}
        return self

    def _record(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name in self.fails:
            raise self.fails[name]

    def model_info(self, repo, revision):
        self._record("model_info", repo, revision)
        if not (self.folder / repo).exists():
            raise http_error(errors.RepositoryNotFoundError, 404)

    def snapshot_download(self, repo, revision, allow_patterns, local_files_only):
        self._record("snapshot_download", repo, revision, allow_patterns, local_files_only)
        target = self.folder / "cache" / repo / COMMIT
        target.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            if (self.folder / repo / name).exists():
                shutil.copy(self.folder / repo / name, target)
        return str(target)

    def create_repo(self, repo, private, exist_ok):
        self._record("create_repo", repo, private, exist_ok)
        (self.folder / repo).mkdir(parents=True, exist_ok=exist_ok)
        return f"hub:{repo}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        self._record("upload_folder", repo_id)
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)
