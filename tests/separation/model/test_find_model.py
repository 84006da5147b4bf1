import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.web.fake_hub import error_line, save_model

import spikesep
from spikesep.cli.infer import main as infer
from spikesep.separation.model import hub as hub_module
from spikesep.separation.model.hub import find_model


def test_first_shipped_model_is_the_default(here):
    for seed, name in enumerate(("duo-8k", "trio-8k")):
        save_model(hub_module.PRETRAINED / name / "snn", seed)
    (hub_module.PRETRAINED / "another").mkdir()
    assert find_model() == find_model("duo-8k") == hub_module.PRETRAINED / "duo-8k" / "snn"
    assert spikesep.load_model().kind == spikesep.load_model("trio-8k").kind == "snn"
    assert "contains no ann" in error_line(None, "ann", call=spikesep.load_model)
    save_model(hub_module.PRETRAINED / "trio-8k" / "ann")
    assert find_model("trio-8k", "ann") == hub_module.PRETRAINED / "trio-8k" / "ann"


def test_shipped_models_are_package_data():
    package = Path(hub_module.__file__).parents[1]
    settings = tomllib.loads((package.parents[1] / "pyproject.toml").read_text())
    (pattern,) = settings["tool"]["setuptools"]["package-data"]["spikesep.separation"]
    assert (
        (hub_module.PRETRAINED / "duo" / "snn" / "model.safetensors")
        .relative_to(package)
        .match(pattern)
    )


def test_command_uses_the_shipped_model(here):
    save_model(hub_module.PRETRAINED / "duo-8k" / "snn")
    soundfile.write("a.wav", np.random.default_rng(0).normal(0, 0.1, 2000), 8000)
    with pytest.raises(SystemExit) as ended:
        infer(["a.wav"])
    assert ended.value.code == 0
    assert Path("a_spk2.wav").exists()


def test_missing_shipped_model_is_reported(here):
    assert "has no shipped model; give" in error_line()


def test_local_models_take_precedence(hub):
    save_model(hub.folder / "org" / "name", 1)
    save_model(hub_module.PRETRAINED / "duo" / "snn", 1)
    for name in ("org/name", "duo", "org/file.safetensors"):
        save_model(Path(name))
        assert find_model(name) == Path(name)
    save_model(Path("exp/tag/snn"))
    assert find_model("exp/tag") == Path("exp/tag/snn")
    assert find_model("exp/tag", "snn") == Path("exp/tag/snn")
    assert "exp/tag: contains no ann" in error_line("exp/tag", "ann")
    assert hub.calls == []


@pytest.mark.parametrize(
    "name", ["exp/defualt", "exp/defualt@v1", "./exp/x", "a/b/c", "/a/b", "~/m", "x", "a b/c", ""]
)
def test_invalid_repository_names_are_not_looked_up(hub, name):
    Path("exp").mkdir()
    message = error_line(name)
    assert message.startswith(f"{name or '.'}: contains no model")
    assert hub.calls == []


def test_error_says_where_a_model_was_looked_for(hub):
    save_model(hub_module.PRETRAINED / "duo" / "snn")
    assert error_line("dua") == (
        "dua: contains no model: no such folder or file, not among the shipped (duo), not a name "
        "on the hub (org/name)"
    )
    assert error_line("org/name").startswith(
        "org/name: contains no model: no such folder or file here, and on the hub no model of that "
        "name"
    )
