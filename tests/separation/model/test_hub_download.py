import httpx2
import pytest
from helpers.web.fake_hub import ALL_FILES, COMMIT, error_line, http_error, is_same, save_model
from huggingface_hub import errors

import spikesep
from spikesep.files import write_json
from spikesep.separation.model.hub import find_model


@pytest.mark.parametrize(
    ("name", "revision"),
    [("org/name", None), ("org/name@v1", "v1"), ("o-r.g/n_1@refs/pr/1", "refs/pr/1")],
)
def test_settings_are_downloaded_first(hub, capsys, name, revision):
    repo = name.partition("@")[0]
    original = save_model(hub.folder / repo)
    assert is_same(find_model(name), original)
    assert hub.calls == [
        ("model_info", repo, revision),
        ("snapshot_download", repo, revision, ["config.json"], False),
        ("snapshot_download", repo, revision, [*ALL_FILES, "tracks/*"], False),
    ]
    assert capsys.readouterr().err == f"{name}: revision {COMMIT[:12]} of the hub\n"


@pytest.mark.parametrize(
    "config", [None, {}, {"format": "other/1"}, {"format": "spikesep-image-network/2"}]
)
def test_weights_of_other_models_are_not_downloaded(hub, config):
    save_model(hub.folder / "org" / "name")
    (hub.folder / "org" / "name" / "config.json").unlink()
    if config is not None:
        write_json(hub.folder / "org" / "name" / "config.json", config)
    error_line("org/name")
    assert [call[0] for call in hub.calls] == ["model_info", "snapshot_download"]


def test_changed_weights_are_rejected(hub):
    folder = save_model(hub.folder / "org" / "name")
    tensors = bytearray((folder / "model.safetensors").read_bytes())
    tensors[-1] ^= 1
    (folder / "model.safetensors").write_bytes(tensors)
    assert "checksum differs" in error_line("org/name", call=spikesep.load_model)


REFUSALS = {
    "private": (
        http_error(errors.RepositoryNotFoundError, 401),
        "no model of that name that you may read",
    ),
    "gated": (http_error(errors.GatedRepoError, 403), "a gated model; accept its terms"),
    "revision": (http_error(errors.RevisionNotFoundError, 404), "no revision v9 of it"),
    "name": (
        errors.HFValidationError("Repo id must not end so"),
        "the name is invalid (Repo id must",
    ),
}


@pytest.mark.parametrize(("error", "message"), REFUSALS.values(), ids=REFUSALS)
def test_hub_errors_are_one_line(hub, error, message):
    hub.fails["model_info"] = error
    assert message in error_line("org/name@v9")
    assert len(hub.calls) == 1


SILENT = {
    "offline mode": (
        errors.OfflineModeIsEnabled("Cannot reach the hub"),
        "the hub cannot be reached (Cannot reach the hub)",
    ),
    "no network": (httpx2.ConnectError("no route"), "the hub cannot be reached (no route)"),
    "slow": (httpx2.ReadTimeout(""), "the hub cannot be reached (ReadTimeout)"),
    "out of order": (
        http_error(errors.HfHubHTTPError, 503),
        "the hub is out of order (503 Client Error.)",
    ),
}


@pytest.mark.parametrize(("error", "reason"), SILENT.values(), ids=SILENT)
def test_cached_copy_is_used_if_the_hub_does_not_respond(hub, capsys, error, reason):
    save_model(hub.folder / "org" / "name")
    hub.fails["model_info"] = error
    find_model("org/name")
    assert [call[-1] for call in hub.calls[1:]] == [True, True]
    assert (
        capsys.readouterr().err == f"org/name: {reason}; using the cached revision {COMMIT[:12]}\n"
    )


@pytest.mark.parametrize(("error", "reason"), SILENT.values(), ids=SILENT)
def test_missing_cached_copy_is_reported(hub, error, reason):
    hub.fails = {
        "model_info": error,
        "snapshot_download": errors.LocalEntryNotFoundError("not\nthere"),
    }
    message = error_line("org/name")
    assert reason in message
    assert "go online once, or give a folder or file" in message


def test_interrupted_download_is_one_line(hub):
    save_model(hub.folder / "org" / "name")
    hub.fails["snapshot_download"] = httpx2.ReadError("reset by peer")
    assert (
        error_line("org/name")
        == "org/name: cannot be downloaded (reset by peer); give the same command again"
    )
