"""No network: the hub is a folder behind the few calls of huggingface_hub that are made, or its own cache."""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx2
import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants, errors

import spikesep
from spikesep.cli.infer import main as infer
from spikesep.errors import SpikeSepError
from spikesep.files import write_json
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.model import hub as models
from spikesep.separation.model.hub import find_model, push_to_hub
from spikesep.separation.model.separator import KIND, Separator, load_separator, save_separator
from spikesep.spiking.signal import Coding
from spikesep.training.records.model_folder import read_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ALL = ["config.json", "model.safetensors", "report.json", "README.md"]


def make(path: Path, seed=0) -> Path:
    torch.manual_seed(seed)
    separator = Separator(SeparatorConfig(n_filters=16, n_channels=12, dilations=[1, 2])).eval()
    for layer in separator.network.layers.values():
        layer.convert(0.2, Coding(4))
        layer.freeze()
    save_separator(separator, path, [{"layer": "bottleneck"}], "# A card\n")
    return path


def same(path: Path, other: Path) -> bool:
    return read_model(path, KIND).settings["sha256"] == read_model(other, KIND).settings["sha256"]


def the_refusal(*arguments, call=find_model, **named) -> str:
    with pytest.raises(SpikeSepError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, without shipped models."""
    monkeypatch.setattr(models, "PRETRAINED", tmp_path / "pretrained")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


class Hub:
    """Places under a folder; what is asked of it is noted, and what `fails` is raised."""

    def __init__(self, folder: Path):
        self.folder, self.calls, self.fails = folder, [], {}

    def __call__(self, **about):
        assert about == {"library_name": "spikesep", "library_version": spikesep.__version__}
        return self

    def _note(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name in self.fails:
            raise self.fails[name]

    def model_info(self, repo, revision):
        self._note("model_info", repo, revision)
        if not (self.folder / repo).exists():
            raise refusal(errors.RepositoryNotFoundError, 404)

    def snapshot_download(self, repo, revision, allow_patterns, local_files_only):
        self._note("snapshot_download", repo, revision, allow_patterns, local_files_only)
        target = self.folder / "cache" / repo / COMMIT
        target.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            if (self.folder / repo / name).exists():
                shutil.copy(self.folder / repo / name, target)
        return str(target)

    def create_repo(self, repo, private, exist_ok):
        self._note("create_repo", repo, private, exist_ok)
        (self.folder / repo).mkdir(parents=True, exist_ok=exist_ok)
        return f"hub:{repo}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        self._note("upload_folder", repo_id)
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)


def refusal(kind, status):
    return kind(
        f"{status} Client Error.\n\nmore",
        response=httpx2.Response(status, request=httpx2.Request("GET", "http://hub")),
    )


@pytest.fixture
def hub(here, tmp_path, monkeypatch):
    fake = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    return fake


def test_without_a_name_the_shipped_model_is_taken_and_a_name_takes_any(here):
    for seed, name in enumerate(("duo-8k", "trio-8k")):
        make(models.PRETRAINED / name / "snn", seed)
    (models.PRETRAINED / "another").mkdir()
    assert find_model() == find_model("duo-8k") == models.PRETRAINED / "duo-8k" / "snn"
    assert spikesep.load_model().kind == spikesep.load_model("trio-8k").kind == "snn"
    assert "holds no ann" in the_refusal(None, "ann", call=spikesep.load_model)
    make(models.PRETRAINED / "trio-8k" / "ann")
    assert find_model("trio-8k", "ann") == models.PRETRAINED / "trio-8k" / "ann"


def test_the_wheel_takes_shipped_models_along():
    package = Path(models.__file__).parents[1]
    settings = tomllib.loads((package.parents[1] / "pyproject.toml").read_text())
    (pattern,) = settings["tool"]["setuptools"]["package-data"]["spikesep.separation"]
    assert (
        (models.PRETRAINED / "duo" / "snn" / "model.safetensors")
        .relative_to(package)
        .match(pattern)
    )


def test_the_command_takes_the_shipped_model(here):
    make(models.PRETRAINED / "duo-8k" / "snn")
    soundfile.write("a.wav", np.random.default_rng(0).normal(0, 0.1, 2000), 8000)
    with pytest.raises(SystemExit) as ended:
        infer(["a.wav"])
    assert ended.value.code == 0
    assert Path("a_spk2.wav").exists()


def test_an_installation_without_a_shipped_model_says_so(here):
    assert "has no shipped model; give" in the_refusal()


def test_what_is_here_comes_before_what_is_shipped_or_on_the_hub(hub):
    make(hub.folder / "org" / "name", 1)
    make(models.PRETRAINED / "duo" / "snn", 1)
    for name in ("org/name", "duo", "org/file.safetensors"):
        make(Path(name))
        assert find_model(name) == Path(name)
    make(Path("exp/tag/snn"))
    assert find_model("exp/tag") == Path("exp/tag/snn")
    assert find_model("exp/tag", "snn") == Path("exp/tag/snn")
    assert "exp/tag: holds no ann" in the_refusal("exp/tag", "ann")
    assert hub.calls == []


@pytest.mark.parametrize(
    "name", ["exp/defualt", "exp/defualt@v1", "./exp/x", "a/b/c", "/a/b", "~/m", "x", "a b/c", ""]
)
def test_what_cannot_be_on_the_hub_is_not_asked_of_it(hub, name):
    Path("exp").mkdir()
    message = the_refusal(name)
    assert message.startswith(f"{name or '.'}: holds no model")
    assert hub.calls == []


def test_a_miss_says_where_it_was_looked_for(hub):
    make(models.PRETRAINED / "duo" / "snn")
    assert the_refusal("dua") == (
        "dua: holds no model: no such folder or file, not among the shipped (duo), no name on the hub (org/name)"
    )
    assert the_refusal("org/name").startswith(
        "org/name: holds no model: no such folder or file here, and on the hub no model of that name"
    )


@pytest.mark.parametrize(
    ("name", "revision"),
    [("org/name", None), ("org/name@v1", "v1"), ("o-r.g/n_1@refs/pr/1", "refs/pr/1")],
)
def test_a_model_of_the_hub_is_fetched_settings_first(hub, capsys, name, revision):
    repo = name.partition("@")[0]
    original = make(hub.folder / repo)
    assert same(find_model(name), original)
    assert hub.calls == [
        ("model_info", repo, revision),
        ("snapshot_download", repo, revision, ["config.json"], False),
        ("snapshot_download", repo, revision, ALL, False),
    ]
    assert capsys.readouterr().err == f"{name}: the hub's revision {COMMIT[:12]}\n"


@pytest.mark.parametrize(
    "config", [None, {}, {"format": "other/1"}, {"format": "spikesep-image-network/2"}]
)
def test_nothing_large_is_fetched_of_what_is_no_separator(hub, config):
    make(hub.folder / "org" / "name")
    (hub.folder / "org" / "name" / "config.json").unlink()
    if config is not None:
        write_json(hub.folder / "org" / "name" / "config.json", config)
    the_refusal("org/name")
    assert [call[0] for call in hub.calls] == ["model_info", "snapshot_download"]


def test_what_was_changed_on_the_hub_is_refused(hub):
    folder = make(hub.folder / "org" / "name")
    tensors = bytearray((folder / "model.safetensors").read_bytes())
    tensors[-1] ^= 1
    (folder / "model.safetensors").write_bytes(tensors)
    assert "checksum differs" in the_refusal("org/name", call=spikesep.load_model)


REFUSALS = {
    "private": (
        refusal(errors.RepositoryNotFoundError, 401),
        "no model of that name that you may read",
    ),
    "gated": (refusal(errors.GatedRepoError, 403), "asks for consent"),
    "revision": (refusal(errors.RevisionNotFoundError, 404), "no revision v9 of it"),
    "name": (
        errors.HFValidationError("Repo id must not end so"),
        "no such name can be (Repo id must",
    ),
}


@pytest.mark.parametrize(("error", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_the_hub_refuses_is_one_line(hub, error, message):
    hub.fails["model_info"] = error
    assert message in the_refusal("org/name@v9")
    assert len(hub.calls) == 1


SILENT = {
    "offline mode": (
        errors.OfflineModeIsEnabled("Cannot reach the hub"),
        "the hub cannot be reached (Cannot reach the hub)",
    ),
    "no network": (httpx2.ConnectError("no route"), "the hub cannot be reached (no route)"),
    "slow": (httpx2.ReadTimeout(""), "the hub cannot be reached (ReadTimeout)"),
    "out of order": (
        refusal(errors.HfHubHTTPError, 503),
        "the hub is out of order (503 Client Error.)",
    ),
}


@pytest.mark.parametrize(("error", "reason"), SILENT.values(), ids=SILENT)
def test_where_the_hub_is_silent_the_cached_copy_is_taken_with_a_note(hub, capsys, error, reason):
    make(hub.folder / "org" / "name")
    hub.fails["model_info"] = error
    find_model("org/name")
    assert [call[-1] for call in hub.calls[1:]] == [True, True]
    assert (
        capsys.readouterr().err
        == f"org/name: {reason}; the cached revision {COMMIT[:12]} is taken\n"
    )


@pytest.mark.parametrize(("error", "reason"), SILENT.values(), ids=SILENT)
def test_where_the_hub_is_silent_and_nothing_cached_one_line_says_what_to_do(hub, error, reason):
    hub.fails = {
        "model_info": error,
        "snapshot_download": errors.LocalEntryNotFoundError("not\nthere"),
    }
    message = the_refusal("org/name")
    assert reason in message
    assert "be online once, or give a folder or file" in message


def test_a_download_that_breaks_off_is_one_line(hub):
    make(hub.folder / "org" / "name")
    hub.fails["snapshot_download"] = httpx2.ReadError("reset by peer")
    assert (
        the_refusal("org/name")
        == "org/name: cannot be fetched (reset by peer); give the same command again"
    )


@pytest.mark.parametrize(("private", "asked"), [(False, None), (True, True)])
@pytest.mark.parametrize("form", ["model", "model.safetensors"])
def test_what_is_pushed_comes_back_with_report_and_card(hub, private, asked, form):
    original = make(Path(form))
    assert push_to_hub(original, "org/name", private) == "hub:org/name"
    assert hub.calls == [("create_repo", "org/name", asked, True), ("upload_folder", "org/name")]
    assert sorted(p.name for p in (hub.folder / "org" / "name").iterdir()) == sorted(ALL)
    found = find_model("org/name")
    assert same(found, original)
    assert read_model(found, KIND).card == "# A card\n"
    assert read_model(found, KIND).report == [{"layer": "bottleneck"}]


@pytest.mark.parametrize("name", ["name", "org/name@v1", "a/b/c", "org/", "org/ name"])
def test_nothing_is_pushed_under_what_is_no_name(hub, name):
    assert "is no name on the hub" in the_refusal(make(Path("model")), name, call=push_to_hub)
    assert hub.calls == []


def test_what_is_no_whole_model_is_not_pushed(hub):
    folder = make(Path("model"))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    assert "not a complete safetensors file" in the_refusal(folder, "org/name", call=push_to_hub)
    assert hub.calls == []


PUSHES = {
    "not logged in": (refusal(errors.HfHubHTTPError, 401), "log in"),
    "not mine": (refusal(errors.HfHubHTTPError, 403), "as one who may write there"),
    "out of order": (refusal(errors.HfHubHTTPError, 500), "again later"),
    "no token": (errors.LocalTokenNotFoundError("Token is required"), "log in"),
    "no network": (httpx2.ConnectError("no route"), "be online"),
    "offline": (errors.OfflineModeIsEnabled("offline"), "be online"),
}


@pytest.mark.parametrize(("error", "message"), PUSHES.values(), ids=PUSHES)
@pytest.mark.parametrize("call", ["create_repo", "upload_folder"])
def test_a_push_that_fails_is_one_line(hub, call, error, message):
    hub.fails[call] = error
    assert message in the_refusal(make(Path("model")), "org/name", call=push_to_hub)


def cached(cache: Path, repo: str, model: Path) -> None:
    """A snapshot as huggingface_hub lays it out: files by checksum, links to them, and which commit `main` is."""
    place = cache / f"models--{repo.replace('/', '--')}"
    for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (place / folder).mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    for file in model.iterdir():
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, place / "blobs" / name)
        (place / "snapshots" / COMMIT / file.name).symlink_to(Path("..", "..", "blobs", name))


def test_huggingface_hub_itself_finds_its_cached_copy_offline(here, tmp_path):
    cached(tmp_path / "home" / "hub", "org/name", make(tmp_path / "model"))
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
    assert found == f"org/name: HF_HUB_OFFLINE is set; the cached revision {COMMIT[:12]} is taken"
    assert missed.startswith(
        "spikesep-infer: error: org/other: holds no model: no such folder or file here, and on the hub"
    )
    assert missed.endswith(
        "HF_HUB_OFFLINE is set, and the cache has no whole copy of it; be online once, or give a folder or file"
    )
    assert Path("a_spk2.wav").exists()


def test_huggingface_hub_itself_falls_back_on_its_cache_where_nothing_answers(
    here, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    original = make(tmp_path / "model")
    cached(tmp_path / "cache", "org/name", original)
    assert same(find_model("org/name"), original)
    assert load_separator(find_model(f"org/name@{COMMIT}")).kind == "snn"
    assert "org/name: the hub cannot be reached (" in capsys.readouterr().err
    assert "nothing could be looked for" in the_refusal("org/other")
    assert "nothing could be looked for" in the_refusal("org/name@v2")


def test_a_cached_link_out_of_its_place_is_refused(here, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    cached(tmp_path / "cache", "org/name", make(tmp_path / "model"))
    link = tmp_path / "cache" / "models--org--name" / "snapshots" / COMMIT / "model.safetensors"
    link.unlink()
    link.symlink_to(tmp_path / "model" / "model.safetensors")
    assert "outside of its folder" in the_refusal("org/name", call=spikesep.load_model)
