"""The image recipes as a user runs them, on a few images in ImageNet's layout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import ROOT
from PIL import Image

RECIPES = ROOT / "recipes"
NAMES = ["autoencoder", "image_classification"]
COMMANDS = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(
    not (COMMANDS / "spikesep-vision").exists(),
    reason="the spikesep-* commands are not installed beside this Python",
)


@pytest.fixture(scope="module", params=NAMES)
def recipe(request, tmp_path_factory):
    """A copy of a recipe outside the checkout, with twenty pictures of two classes."""
    root = tmp_path_factory.mktemp("recipe")
    folder = root / "recipes" / request.param
    for name in ("tools/recipe.sh", f"recipes/{request.param}/run.sh"):
        (root / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(RECIPES / request.param / "conf", folder / "conf")
    rng = np.random.default_rng(0)
    for part, n in (("train", 16), ("val", 4)):
        for wnid, level in (("n01", 40), ("n02", 200)):
            (folder / "pictures" / part / wnid).mkdir(parents=True)
            for k in range(n):
                pixels = rng.integers(0, 50, (16, 16, 3), dtype=np.uint8) + level
                Image.fromarray(pixels.astype(np.uint8)).save(
                    folder / "pictures" / part / wnid / f"{k}.JPEG"
                )
    return folder


def run(recipe, *argv):
    environment = {**os.environ, "PATH": f"{COMMANDS}:{os.environ['PATH']}"}
    return subprocess.run(
        ["./run.sh", *argv],
        cwd=recipe,
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_recipe_runs_from_images_to_results_page(recipe):
    task = "reconstruction" if recipe.name == "autoencoder" else "classification"
    architecture = "3x16x16-c4s2-16-768" if recipe.name == "autoencoder" else "3x16x16-c4s2-p2-8-2"
    (recipe / "conf" / "small.yaml").write_text(
        f"experiment: {{name: small, task: {task}, architectures: [{architecture}], "
        "vary: {convert.n_steps: [4]}, reduced: a test}\n"
        "images: {name: imagenet, root: pictures, valid_share: 0.2}\n"
        "train: {epochs: 2, batch_size: 8, warmup_steps: 2}\n"
        "convert: {max_epochs: 1, batch_size: 8, patience: 1}\n"
    )
    ended = run(recipe, "--config", "conf/small.yaml")
    assert ended.returncode == 0, ended.stderr
    found = json.loads((recipe / "results" / "small.json").read_text())
    metric = "mse" if task == "reconstruction" else "accuracy"
    assert set(found["snn"]["4"][metric]) == {"mean", "std", "seeds"}
    assert set(found["ann"][metric]) == {"mean", "std", "seeds"}
    assert found["reduced"] is True
    assert found["command"] == "./run.sh --config conf/small.yaml"
    page = (recipe / "RESULTS.md").read_text()
    assert "SNN, N_s = 4" in page
    assert "results/small-training.png" in page
    again = run(recipe, "--config", "conf/small.yaml", "--stage", "1", "--stop-stage", "2")
    assert again.stdout.count("is there and complete") == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stagee", "1"], "unknown option --stagee"),
        (["--stage"], "--stage needs a value"),
        (["--stage", "7"], "take 0 to 4"),
        (["--config", "nowhere.yaml"], "no such file"),
        (["--stage", "1", "--train.epochz", "3"], "epochz"),
        (["--stage", "1", "--stop-stage", "1", "--data", "nowhere"], "nowhere"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_option_error_is_one_line_with_status_2(recipe, argv, message):
    ended = run(recipe, *argv)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_accepted_and_its_networks_built(name):
    from spikesep.cli.common import recipe_parser
    from spikesep.vision.architectures import build
    from spikesep.vision.config import ImageRecipe

    paths = sorted((RECIPES / name / "conf").rglob("*.yaml"))
    assert paths
    for path in paths:
        parser = recipe_parser("test", "", ImageRecipe)
        options = parser.instantiate(parser.parse_args(["--exp", "x", "--config", str(path)]))
        assert options.experiment.reduced or "reduced" not in path.stem
        for architecture in options.experiment.architectures:
            if not architecture.startswith("imagenet"):
                build(architecture)
