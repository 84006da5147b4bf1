from pathlib import Path

import httpx2
import pytest
from helpers.web.fake_hub import ALL_FILES, error_line, http_error, is_same, save_model
from huggingface_hub import errors

from spikesep.separation.model.hub import find_model, push_to_hub
from spikesep.separation.model.separator import KIND
from spikesep.training.records.model_folder import read_model


@pytest.mark.parametrize(("private", "asked"), [(False, None), (True, True)])
@pytest.mark.parametrize("form", ["model", "model.safetensors"])
def test_pushed_model_can_be_downloaded(hub, private, asked, form):
    original = save_model(Path(form))
    assert push_to_hub(original, "org/name", private) == "hub:org/name"
    assert hub.calls == [("create_repo", "org/name", asked, True), ("upload_folder", "org/name")]
    assert sorted(p.name for p in (hub.folder / "org" / "name").iterdir()) == sorted(ALL_FILES)
    found = find_model("org/name")
    assert is_same(found, original)
    assert read_model(found, KIND).card == "# A card\n"
    assert read_model(found, KIND).report == [{"layer": "bottleneck"}]


@pytest.mark.parametrize("name", ["name", "org/name@v1", "a/b/c", "org/", "org/ name"])
def test_push_rejects_invalid_names(hub, name):
    assert "is not a name on the hub" in error_line(
        save_model(Path("model")), name, call=push_to_hub
    )
    assert hub.calls == []


def test_push_rejects_incomplete_models(hub):
    folder = save_model(Path("model"))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    assert "not a complete safetensors file" in error_line(folder, "org/name", call=push_to_hub)
    assert hub.calls == []


PUSHES = {
    "not logged in": (http_error(errors.HfHubHTTPError, 401), "log in"),
    "not mine": (http_error(errors.HfHubHTTPError, 403), "as a user who may write there"),
    "out of order": (http_error(errors.HfHubHTTPError, 500), "again later"),
    "no token": (errors.LocalTokenNotFoundError("Token is required"), "log in"),
    "no network": (httpx2.ConnectError("no route"), "check your connection"),
    "offline": (errors.OfflineModeIsEnabled("offline"), "check your connection"),
}


@pytest.mark.parametrize(("error", "message"), PUSHES.values(), ids=PUSHES)
@pytest.mark.parametrize("call", ["create_repo", "upload_folder"])
def test_push_errors_are_one_line(hub, call, error, message):
    hub.fails[call] = error
    assert message in error_line(save_model(Path("model")), "org/name", call=push_to_hub)
