import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
from helpers.web.fake_hub import COMMIT, error_line, is_same, save_model
from huggingface_hub import constants

import spikesep
from spikesep.separation.model.hub import find_model
from spikesep.separation.model.separator import load_separator


def cached(cache: Path, repo: str, model: Path) -> None:
    """Make a cache in the layout of huggingface_hub: blobs, a snapshot of links, and `main`."""
    repository = cache / f"models--{repo.replace('/', '--')}"
    for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for file in model.iterdir():
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, repository / "blobs" / name)
        (repository / "snapshots" / COMMIT / file.name).symlink_to(Path("..", "..", "blobs", name))


def test_cached_copy_is_used_offline(here, tmp_path):
    cached(tmp_path / "home" / "hub", "org/name", save_model(tmp_path / "model"))
    soundfile.write("a.wav", np.random.default_rng(0).normal(0, 0.1, 2000), 8000)
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(spikesep.__file__).parents[1]),
    }
    environment.pop("HF_HUB_CACHE", None)

    code = (
        "from spikesep.cli.infer import main\n"
        "for name in ('org/name', 'org/other'):\n"
        "    try: main(['a.wav', '--model', name, '--overwrite'])\n"
        "    except SystemExit as ended: print(ended.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[1:] == ["0", "2"]
    found, missed = done.stderr.splitlines()
    assert found == f"org/name: HF_HUB_OFFLINE is set; using the cached revision {COMMIT[:12]}"
    assert missed.startswith(
        "spikesep-infer: error: org/other: contains no model: no such folder or file here, and on "
        "the hub"
    )
    assert missed.endswith(
        "HF_HUB_OFFLINE is set, and the cache has no complete copy of it; go online once, or give "
        "a folder or file"
    )
    assert Path("a_spk2.wav").exists()


def test_cached_copy_is_used_without_a_connection(here, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    original = save_model(tmp_path / "model")
    cached(tmp_path / "cache", "org/name", original)
    assert is_same(find_model("org/name"), original)
    assert load_separator(find_model(f"org/name@{COMMIT}")).kind == "snn"
    assert "org/name: the hub cannot be reached (" in capsys.readouterr().err
    assert "it could not be looked up" in error_line("org/other")
    assert "it could not be looked up" in error_line("org/name@v2")


def test_link_out_of_the_cache_is_rejected(here, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    cached(tmp_path / "cache", "org/name", save_model(tmp_path / "model"))
    link = tmp_path / "cache" / "models--org--name" / "snapshots" / COMMIT / "model.safetensors"
    link.unlink()
    link.symlink_to(tmp_path / "model" / "model.safetensors")
    assert "outside of its folder" in error_line("org/name", call=spikesep.load_model)
