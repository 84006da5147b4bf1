import shutil
from dataclasses import replace

import pytest
import torch
from helpers.recipes import RECIPE, converting, link_data, training, write_old_settings

from spikesep.errors import SpikeSepError, SpikeSepWarning
from spikesep.files import read_json, write_json
from spikesep.separation.audio.files import read_audio, write_wav
from spikesep.separation.config import DynamicMixingConfig, SeparatorConfig
from spikesep.separation.data.kaldi import read_data_dir, write_data_dir
from spikesep.separation.experiment import convert_snn, train_ann
from spikesep.separation.experiment_data import read_experiment_data
from spikesep.separation.model.separator import load_separator
from spikesep.training.config import LaunchConfig
from spikesep.training.levels_config import LevelsConfig
from spikesep.training.records.history import History


@pytest.fixture
def data(kept_experiment, tmp_path):
    """`tr` and `cv` of the shared tiny corpus."""
    return link_data(kept_experiment, tmp_path / "data")


@pytest.fixture
def reversed_data(data, tmp_path):
    """The same lists, with every mixture reversed in time: no longer the sum of its sources."""
    folder = tmp_path / "reversed"
    for name in ("tr", "cv"):
        changed = []
        for number, mixture in enumerate(read_data_dir(data / name)):
            path = folder / "wav" / name / f"{number}.wav"
            write_wav(path, read_audio(mixture.mixture)[::-1], 8000)
            changed.append(replace(mixture, mixture=path))
        write_data_dir(folder / name, changed)
    return folder


def losses(exp, stage):
    rows = History(exp / "history.csv").read()
    return [(row.train_loss, row.valid_loss) for row in rows if row.stage == stage]


def test_complete_stages_are_not_repeated(data, tmp_path, capsys):
    exp = tmp_path / "exp"
    assert train_ann(data, exp, RECIPE) == exp / "ann"
    folder, reports = convert_snn(data, exp, RECIPE)
    assert [r.layer for r in reports] == ["bottleneck", "dilated1", "dilated2"]
    assert (folder / "report.json").exists()
    capsys.readouterr()
    train_ann(data, exp, RECIPE)
    assert convert_snn(data, exp, RECIPE) == (folder, [])
    assert capsys.readouterr().out.count("is there and complete") == 2


def test_experiment_of_an_earlier_release_goes_on(data, tmp_path, capsys):
    """Trained under the old names of settings, then converted, then complete."""
    exp = tmp_path / "exp"
    train_ann(data, exp, RECIPE)
    convert_snn(data, exp, RECIPE)
    write_old_settings(exp)
    capsys.readouterr()
    with pytest.warns(SpikeSepWarning, match=r"ann\.json: .*ann\.\* is now train\.\*"):
        train_ann(data, exp, RECIPE)
    with pytest.warns(SpikeSepWarning, match=r"snn\.json: .*remix is now mixing\.dynamic\.remix"):
        convert_snn(data, exp, RECIPE)
    assert capsys.readouterr().out.count("is there and complete") == 2
    with (
        pytest.warns(SpikeSepWarning),
        pytest.raises(SpikeSepError, match=r"convert\.n_steps = 8, not 4"),
    ):
        convert_snn(data, exp, converting(n_steps=4))


def test_one_analog_network_is_converted_in_several_experiments(data, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train_ann(data, one, RECIPE)
    other = converting(n_steps=4)
    folder, _ = convert_snn(data, two, other, one / "ann")
    assert folder == two / "snn"
    assert (two / "ann" / "config.json").exists()
    settings = (read_json(exp / "settings" / "ann.json") for exp in (one, two))
    assert next(settings) == next(settings)
    rows = History(two / "history.csv").read()
    assert [row for row in rows if row.stage == 0] == History(one / "history.csv").read()
    assert convert_snn(data, two, other, one / "ann") == (folder, [])
    train_ann(data, tmp_path / "three", replace(RECIPE, seed=1))
    with pytest.raises(SpikeSepError, match="exists and is not"):
        convert_snn(data, two, other, tmp_path / "three" / "ann")


def test_refused_network_is_not_copied(data, tmp_path):
    train_ann(data, tmp_path / "one", RECIPE)
    convert_snn(data, tmp_path / "one", RECIPE)
    other = replace(RECIPE, model=replace(RECIPE.model, sample_rate=16000))
    for recipe, network, message in (
        (RECIPE, "snn", "is converted already"),
        (other, "ann", "has model.sample_rate = 8000, not 16000"),
    ):
        with pytest.raises(SpikeSepError, match=message):
            convert_snn(data, tmp_path / "two", recipe, tmp_path / "one" / network)
        assert not (tmp_path / "two" / "ann").exists()


def test_mixtures_on_disk_are_used(data, reversed_data, tmp_path, capsys):
    """Rather than the sum of their sources."""
    train_ann(data, tmp_path / "one", RECIPE)
    assert "sum of their sources" not in capsys.readouterr().out
    train_ann(reversed_data, tmp_path / "two", RECIPE)
    said = capsys.readouterr().out
    notice = "4 of 4 mixtures contain more than the sum of their sources; they are used as they are"
    assert f"tr: {notice}, and neither" in said
    assert f"cv: {notice}\n" in said
    one, two = losses(tmp_path / "one", 0)[0], losses(tmp_path / "two", 0)[0]
    assert abs(one[0] - two[0]) > 0.1
    assert abs(one[1] - two[1]) > 0.1
    ann = tmp_path / "one" / "ann"
    convert_snn(data, tmp_path / "three", RECIPE, ann)
    convert_snn(reversed_data, tmp_path / "four", RECIPE, ann)
    assert abs(losses(tmp_path / "three", 1)[0][1] - losses(tmp_path / "four", 1)[0][1]) > 0.1


@pytest.mark.parametrize("effect", ["remix", "polarity"])
def test_sources_of_mixtures_with_a_residual_are_unchanged(data, reversed_data, effect):
    channel = ["polarity"] if effect == "polarity" else []
    dynamic = DynamicMixingConfig(remix=effect == "remix", channel=channel)
    recipe = replace(RECIPE, mixing=replace(RECIPE.mixing, dynamic=dynamic))
    for folder, changed in ((data, True), (reversed_data, False)):
        found = read_experiment_data(folder, recipe)
        paths = [path for mixture in found.train for path in mixture.sources]
        whole = {read_audio(path)[3000].item() for path in paths}
        _, sources = next(iter(found.random_crops(7200, 4, seed=0)))
        assert ({value.item() for value in sources[:, :, 3000].flatten()} != whole) == changed


@pytest.mark.parametrize("stage", ["ann", "snn"])
def test_complete_stage_is_refused_for_other_data(data, reversed_data, tmp_path, capsys, stage):
    exp = tmp_path / "exp"
    train_ann(data, exp, RECIPE)
    run = train_ann if stage == "ann" else convert_snn
    run(data, exp, RECIPE)
    shutil.copytree(data, tmp_path / "moved")
    capsys.readouterr()
    run(tmp_path / "moved", exp, RECIPE)
    assert "is there and complete" in capsys.readouterr().out
    message = f"stage {stage} was begun on other data than .*reversed; give the --data"
    with pytest.raises(SpikeSepError, match=message):
        run(reversed_data, exp, RECIPE)
    path = exp / "settings" / f"{stage}.json"
    settings = read_json(path)
    del settings["heard"]  # as recorded before samples were hashed
    write_json(path, settings)
    run(data, exp, RECIPE)
    assert "is there and complete" in capsys.readouterr().out


def test_analog_network_is_trained_further(data, tmp_path):
    one = tmp_path / "one" / "ann"
    train_ann(data, one.parent, RECIPE)
    two = train_ann(data, tmp_path / "two", training(learning_rate=1e-9), one)
    filters = [load_separator(path).encoder.filterbank._filters for path in (one, two)]
    torch.testing.assert_close(*filters, atol=1e-5, rtol=0)
    with pytest.raises(SpikeSepError, match="from_ann"):
        train_ann(data, tmp_path / "two", training(learning_rate=1e-9))


def test_refused_network_is_not_trained_further(data, tmp_path):
    ann, three = tmp_path / "one" / "ann", tmp_path / "three"
    train_ann(data, ann.parent, RECIPE)
    found = (
        r"has model\.n_filters = 8, not 512, model\.n_channels = 8, not 512, "
        r"model\.dilations = \[1, 2\], not"
    )
    remedy = (
        r"give its config or --model\.n_filters 8 --model\.n_channels 8 "
        r"--model\.dilations \[1,2\] --model.identity"
    )
    with pytest.raises(SpikeSepError, match=f"ann: {found}.*{remedy}"):
        train_ann(data, three, replace(RECIPE, model=SeparatorConfig()), ann)
    with pytest.raises(SpikeSepError, match="nowhere"):
        train_ann(data, three, RECIPE, tmp_path / "nowhere")
    snn, _ = convert_snn(data, ann.parent, RECIPE)
    with pytest.raises(SpikeSepError, match="converted already"):
        train_ann(data, three, RECIPE, snn)
    assert not three.exists()


def test_other_settings_are_refused_in_the_same_folder(data, tmp_path):
    train_ann(data, tmp_path / "exp", RECIPE)
    with pytest.raises(SpikeSepError, match=r"train\.epochs = 1, not 2"):
        train_ann(data, tmp_path / "exp", training(epochs=2))


def test_refused_settings_leave_no_record(data, tmp_path):
    with pytest.raises(SpikeSepError, match="n_gpus"):
        train_ann(data, tmp_path / "exp", replace(RECIPE, launch=LaunchConfig(n_gpus=99)))
    assert not (tmp_path / "exp" / "settings").exists()


def test_conversion_without_a_trained_network_names_the_stage(data, tmp_path):
    with pytest.raises(SpikeSepError, match="run stage 2"):
        convert_snn(data, tmp_path / "exp", RECIPE)


@pytest.mark.parametrize("sizes", [{}, {"block": "separable", "identity": "none"}])
def test_recipe_with_levels_converts_to_the_steps_that_it_learned(data, tmp_path, sizes):
    levels = LevelsConfig(n_steps=4, target_rate=0.05)
    options = {"n_steps": 4, "deferred": True, "max_epochs": 0, "weight_bits": 0}
    recipe = replace(
        training(levels=levels),
        model=replace(RECIPE.model, **sizes),
        convert=replace(RECIPE.convert, **options),
    )
    train_ann(data, tmp_path, recipe)
    analog = load_separator(tmp_path / "ann")
    folder, reports = convert_snn(data, tmp_path, recipe)
    spiking = load_separator(folder)
    for name, layer in analog.network.layers.items():
        threshold = float(spiking.network.layers[name].threshold)
        assert threshold == pytest.approx(float(layer.levels.step.detach()))
    mixture = torch.from_numpy(read_audio(read_data_dir(data / "cv")[0].mixture))
    torch.testing.assert_close(
        spiking.separate(mixture), analog.separate(mixture), rtol=1e-3, atol=1e-4
    )
    assert len(reports) == len(analog.network)
    on = train_ann(data, tmp_path / "on", RECIPE if not sizes else recipe, tmp_path / "ann")
    assert (load_separator(on).network[0].levels is None) == (not sizes)
