"""Settings under the names of earlier releases."""

import json
from dataclasses import asdict

import pytest
import yaml

from spikesep.cli.common import recipe_parser, to_recipe
from spikesep.errors import SpikeSepError, SpikeSepWarning
from spikesep.files import write_json
from spikesep.separation.config import CorpusConfig, RecipeConfig
from spikesep.training import renamed
from spikesep.training.config import PretrainConfig
from spikesep.training.records.run_folder import claim
from spikesep.vision.config import ExperimentConfig, ImageRecipe


def parsed(argv, kind=RecipeConfig):
    parser = recipe_parser("x", "y", kind, exp=False)
    return to_recipe(parser.instantiate(parser.parse_args(argv)), kind)


OLD = {
    "seed": 3,
    "corpus": {"min_seconds": 2.0, "closed_share": 0.1},
    "mixing": {"n_train": 7},
    "ann": {"epochs": 5, "on_the_fly": 9, "speeds": [0.9, 1.1], "by_amount": 0.5, "remix": False,
            "channel": ["polarity", "floor"], "clip_norm": 5.0},
    "ptl": {"n_steps": 4, "synops_budget": 0.9, "synops_weight": 0.1, "cache_gib": 2.0,
            "cache_disk_gib": 1.0, "optimizer": "adam"},
}  # fmt: skip


def check_old(recipe):
    dynamic, convert = recipe.mixing.dynamic, recipe.convert
    assert (recipe.seed, recipe.mixing.n_train, recipe.corpus.min_seconds) == (3, 7, 2.0)
    assert recipe.train.epochs == 5
    assert (dynamic.examples, dynamic.speeds, dynamic.speaker_weighting) == (9, [0.9, 1.1], 0.5)
    assert (dynamic.remix, dynamic.channel) == (False, ["polarity", "floor"])
    assert (convert.n_steps, convert.budget.synops, convert.budget.synops_weight) == (4, 0.9, 0.1)
    assert (convert.cache.memory_gib, convert.cache.disk_gib) == (2.0, 1.0)


def test_config_file_with_old_names_is_read_with_one_notice(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(OLD))
    with pytest.warns(SpikeSepWarning) as caught:
        recipe = parsed(["--config", str(path)])
    check_old(recipe)
    (notice,) = (str(warning.message) for warning in caught)
    assert notice.startswith(f"{path}: ")
    assert "ann.by_amount is now mixing.dynamic.speaker_weighting" in notice
    assert "ptl.synops_budget is now convert.budget.synops" in notice
    assert "corpus.closed_share no longer exists" in notice
    assert "\n" not in notice


def old_arguments():
    for section, settings in OLD.items():
        for name, value in settings.items() if isinstance(settings, dict) else ():
            yield f"--{section}.{name}", json.dumps(value)


@pytest.mark.parametrize("joined", [False, True])
def test_options_with_old_names_are_read_with_one_notice(joined):
    words = []
    for option, value in old_arguments():
        words += [f"{option}={value}"] if joined else [option, value]
    with pytest.warns(SpikeSepWarning) as caught:
        recipe = parsed(["--seed", "3", *words])
    check_old(recipe)
    assert len(caught) == 1


def test_section_with_old_name_is_read_as_a_whole():
    with pytest.warns(SpikeSepWarning, match="--ptl.synops_weight is now --convert.budget"):
        recipe = parsed(["--ptl", "{n_steps: 4, synops_weight: 5e-2}", "--ann={epochs: 5}"])
    assert (recipe.convert.n_steps, recipe.convert.budget.synops_weight) == (4, 0.05)
    assert recipe.train.epochs == 5


@pytest.mark.parametrize(
    ("argv", "notice"),
    [
        (["--ann.epochs", "3"], "options: --ann.epochs is now --train.epochs"),
        (["--ann.speeds+", "1.1"], "--ann.speeds is now --mixing.dynamic.speeds"),
        (["--ptl.n_steps=4", "--ptl.fan_in=9"], "options: --ptl.* is now --convert.*"),
        (["--ptl.clip_norm", "5"], "options: --ptl.clip_norm no longer exists"),
    ],
)
def test_notice_names_the_new_option(argv, notice):
    with pytest.warns(SpikeSepWarning) as caught:
        renamed.migrated_arguments(argv)
    assert notice in str(caught[0].message)


@pytest.mark.filterwarnings("error")
def test_present_names_and_other_arguments_are_left_alone():
    argv = ["task", "--train.epochs", "3", "--seed=1", "--", "--ann.epochs"]
    assert renamed.migrated_arguments(argv) == argv
    settings = {"train": {"epochs": 3}, "model": {"dilations": [1, 2]}, "corpus": {"also": []}}
    assert renamed.migrated(settings, "x") == settings


def test_removed_option_with_another_value_is_refused():
    message = r"--ptl\.optimizer muon: no longer exists, is always adam; leave it out"
    with pytest.raises(SpikeSepError, match=message):
        renamed.migrated_arguments(["--ptl.optimizer", "muon"])


def test_removed_setting_with_another_value_is_refused_in_a_config_file(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("ptl: {clip_norm: 1.0}")
    with pytest.raises(SpikeSepError, match=r"old\.yaml: there is no setting ptl"):
        parsed(["--config", str(path)])


def test_varied_settings_with_old_names_are_read(tmp_path):
    with pytest.warns(SpikeSepWarning, match=r"ptl\.synops_weight is now convert\.budget"):
        experiment = ExperimentConfig(vary={"ptl.n_steps": [4], "ptl.synops_weight": [0.1]})
    assert experiment.vary == {"convert.n_steps": [4], "convert.budget.synops_weight": [0.1]}
    path = tmp_path / "old.yaml"
    path.write_text("experiment: {vary: {ptl.n_steps: [4, 2]}}\nann: {epochs: 2}\n")
    with pytest.warns(SpikeSepWarning):
        recipe = parsed(["--config", str(path)], ImageRecipe)
    assert recipe.experiment.vary == {"convert.n_steps": [4, 2]}


def test_experiment_begun_with_old_names_goes_on(tmp_path):
    old = {"seed": 0, "ann": {**asdict(PretrainConfig(epochs=3)), "clip_norm": 5.0}}
    write_json(tmp_path / "settings" / "ann.json", old)
    with pytest.warns(SpikeSepWarning, match=r"ann\.json: ann\.\* is now train\.\*"):
        claim(tmp_path, "ann", {"seed": 0, "train": PretrainConfig(epochs=3)})
    with (
        pytest.warns(SpikeSepWarning),
        pytest.raises(SpikeSepError, match=r"train\.epochs = 3, not 4"),
    ):
        claim(tmp_path, "ann", {"seed": 0, "train": PretrainConfig(epochs=4)})


@pytest.mark.filterwarnings("ignore::spikesep.errors.SpikeSepWarning")
def test_experiment_begun_with_a_removed_setting_is_refused(tmp_path):
    old = {"seed": 0, "ann": {**asdict(PretrainConfig()), "clip_norm": 1.0}}
    write_json(tmp_path / "settings" / "ann.json", old)
    with pytest.raises(SpikeSepError, match=r"ann\.clip_norm = 1\.0, not None"):
        claim(tmp_path, "ann", {"seed": 0, "train": PretrainConfig()})


def test_record_of_a_data_folder_with_removed_settings_is_the_same(tmp_path):
    now = {"seed": 0, "corpus": asdict(CorpusConfig()), "n_speakers": 2}
    removed = {"closed_share": 0.1, "max_seconds_per_speaker": 0.0}
    write_json(tmp_path / "settings.json", {**now, "corpus": {**now["corpus"], **removed}})
    with pytest.warns(SpikeSepWarning, match=r"settings\.json: corpus\.closed_share no longer"):
        assert renamed.is_record(tmp_path / "settings.json", now)
    changed = {**now["corpus"], **removed, "max_seconds_per_speaker": 9.0}
    write_json(tmp_path / "settings.json", {**now, "corpus": changed})
    with pytest.warns(SpikeSepWarning):
        assert not renamed.is_record(tmp_path / "settings.json", now)
    assert not renamed.is_record(tmp_path / "nowhere.json", now)
