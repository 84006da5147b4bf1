import shutil
from dataclasses import replace

import pytest
import torch
from helpers.separators import tiny_config

from spikesep.errors import SpikeSepError
from spikesep.files import read_json, write_json
from spikesep.separation import experiment
from spikesep.separation.audio.files import read_audio, write_wav
from spikesep.separation.config import (
    MixingConfig,
    RecipeConfig,
    SeparatorConfig,
    SpeechConversionConfig,
    SpeechPretrainConfig,
)
from spikesep.separation.data.kaldi import read_data_dir, write_data_dir
from spikesep.separation.experiment import convert_snn, train_ann
from spikesep.separation.model.separator import load_separator
from spikesep.training.config import LaunchConfig
from spikesep.training.records.history import History

RECIPE = RecipeConfig(
    mixing=MixingConfig(snr_db=(0, 5)),
    model=tiny_config(n_filters=8, identity="sum"),
    ann=SpeechPretrainConfig(epochs=1, segment_seconds=0.5, batch_size=2),
    ptl=SpeechConversionConfig(
        max_epochs=1, patience=1, segment_seconds=0.5, train_segments=3, valid_segments=2
    ),
)


@pytest.fixture
def data(kept_experiment, tmp_path):
    """`tr` and `cv` of the shared tiny corpus."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "tr").symlink_to(kept_experiment.data / "tt")
    (folder / "cv").symlink_to(kept_experiment.data / "cv")
    return folder


def test_an_experiment_trains_then_converts_then_says_it_is_done(data, tmp_path, capsys):
    exp = tmp_path / "exp"
    assert train_ann(data, exp, RECIPE) == exp / "ann"
    folder, reports = convert_snn(data, exp, RECIPE)
    assert [r.layer for r in reports] == ["bottleneck", "dilated1", "dilated2"]
    assert (folder / "report.json").exists()
    capsys.readouterr()
    train_ann(data, exp, RECIPE)
    assert convert_snn(data, exp, RECIPE) == (folder, [])
    assert capsys.readouterr().out.count("is there and complete") == 2


def test_one_analog_network_is_converted_in_several_experiments(data, tmp_path):
    train_ann(data, tmp_path / "one", RECIPE)
    other = replace(RECIPE, ptl=replace(RECIPE.ptl, n_steps=4))
    folder, _ = convert_snn(data, tmp_path / "two", other, tmp_path / "one" / "ann")
    assert (tmp_path / "two" / "ann" / "config.json").exists()
    assert read_json(tmp_path / "two" / "settings" / "ann.json") == read_json(
        tmp_path / "one" / "settings" / "ann.json"
    )
    assert folder == tmp_path / "two" / "snn"
    one, two = (History(tmp_path / name / "history.csv").read() for name in ("one", "two"))
    assert [row for row in two if row.stage == 0] == one
    assert convert_snn(data, tmp_path / "two", other, tmp_path / "one" / "ann") == (folder, [])
    train_ann(data, tmp_path / "three", replace(RECIPE, seed=1))
    with pytest.raises(SpikeSepError, match="is there and is not"):
        convert_snn(data, tmp_path / "two", other, tmp_path / "three" / "ann")


def test_what_cannot_be_converted_leaves_no_network_behind(data, tmp_path):
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


@pytest.fixture
def others(data, tmp_path):
    """The same data with every mixture reversed in time: the same lists, another sound."""
    folder = tmp_path / "others"
    for name in ("tr", "cv"):
        changed = []
        for number, mixture in enumerate(read_data_dir(data / name)):
            path = folder / "wav" / name / f"{number}.wav"
            write_wav(path, read_audio(mixture.mixture)[::-1], 8000)
            changed.append(replace(mixture, mixture=path))
        write_data_dir(folder / name, changed)
    return folder


def losses(exp, stage):
    return [
        (row.train_loss, row.valid_loss)
        for row in History(exp / "history.csv").read()
        if row.stage == stage
    ]


def test_the_mixtures_that_are_given_are_those_that_are_learned(data, others, tmp_path, capsys):
    train_ann(data, tmp_path / "one", RECIPE)
    assert "sum of their sources" not in capsys.readouterr().out
    train_ann(others, tmp_path / "two", RECIPE)
    said = capsys.readouterr().out
    assert (
        "tr: 4 of 4 mixtures hold more than the sum of their sources; they are taken as they are, and neither"
        in said
    )
    assert (
        "cv: 4 of 4 mixtures hold more than the sum of their sources; they are taken as they are\n"
        in said
    )
    one, two = losses(tmp_path / "one", 0)[0], losses(tmp_path / "two", 0)[0]
    assert abs(one[0] - two[0]) > 0.1
    assert abs(one[1] - two[1]) > 0.1
    ann = tmp_path / "one" / "ann"
    convert_snn(data, tmp_path / "three", RECIPE, ann)
    convert_snn(others, tmp_path / "four", RECIPE, ann)
    assert abs(losses(tmp_path / "three", 1)[0][1] - losses(tmp_path / "four", 1)[0][1]) > 0.1


@pytest.mark.parametrize("effect", ["remix", "polarity"])
def test_sources_stay_with_what_their_mixture_has_beside_them(data, others, effect):
    settings = {"remix": effect == "remix", "channel": ["polarity"] if effect == "polarity" else []}
    recipe = replace(RECIPE, ann=replace(RECIPE.ann, **settings))
    for folder, changed in ((data, True), (others, False)):
        train, *_ = experiment._mixtures(folder, recipe)
        loader = experiment._random_crops(folder, train, recipe, 7200, 4, seed=0)
        whole = {read_audio(path)[3000].item() for mixture in train for path in mixture.sources}
        _, sources = next(iter(loader))
        assert ({value.item() for value in sources[:, :, 3000].flatten()} != whole) == changed


@pytest.mark.parametrize("stage", ["ann", "snn"])
def test_a_finished_stage_is_not_complete_for_other_data(data, others, tmp_path, capsys, stage):
    exp = tmp_path / "exp"
    train_ann(data, exp, RECIPE)
    run = train_ann if stage == "ann" else convert_snn
    run(data, exp, RECIPE)
    shutil.copytree(data, tmp_path / "moved")
    capsys.readouterr()
    run(tmp_path / "moved", exp, RECIPE)
    assert "is there and complete" in capsys.readouterr().out
    with pytest.raises(
        SpikeSepError, match=f"stage {stage} was begun on other data than .*others; give the --data"
    ):
        run(others, exp, RECIPE)
    settings = exp / "settings" / f"{stage}.json"
    write_json(
        settings, {key: value for key, value in read_json(settings).items() if key != "heard"}
    )
    run(data, exp, RECIPE)  # begun by a version that did not listen
    assert "is there and complete" in capsys.readouterr().out


def test_an_analog_network_is_trained_further(data, tmp_path, capsys):
    train_ann(data, tmp_path / "one", RECIPE)
    longer = replace(RECIPE, ann=replace(RECIPE.ann, learning_rate=1e-9))
    train_ann(data, tmp_path / "two", longer, tmp_path / "one" / "ann")
    one, two = (
        load_separator(tmp_path / name / "ann").encoder.filterbank._filters
        for name in ("one", "two")
    )
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    with pytest.raises(SpikeSepError, match="from_ann"):
        train_ann(data, tmp_path / "two", longer)
    differ = r"ann: has model\.n_filters = 8, not 512, model\.n_channels = 8, not 512, model\.dilations = \[1, 2\], not"
    remedy = r"give its config or --model\.n_filters 8 --model\.n_channels 8 --model\.dilations \[1,2\] --model.identity"
    with pytest.raises(SpikeSepError, match=f"{differ}.*{remedy}"):
        train_ann(
            data,
            tmp_path / "three",
            replace(RECIPE, model=SeparatorConfig()),
            tmp_path / "one" / "ann",
        )
    with pytest.raises(SpikeSepError, match="nowhere"):
        train_ann(data, tmp_path / "three", RECIPE, tmp_path / "nowhere")
    snn, _ = convert_snn(data, tmp_path / "one", RECIPE)
    with pytest.raises(SpikeSepError, match="converted already"):
        train_ann(data, tmp_path / "three", RECIPE, snn)
    assert not (tmp_path / "three").exists()


def test_a_converted_network_learns_on_from_where_it_stands(data, tmp_path):
    train_ann(data, tmp_path / "one", RECIPE)
    ann, (snn, _) = tmp_path / "one" / "ann", convert_snn(data, tmp_path / "one", RECIPE)
    still = replace(RECIPE, ptl=replace(RECIPE.ptl, max_epochs=0))
    again, _ = convert_snn(data, tmp_path / "two", still, ann, [snn])
    one, two = load_separator(snn), load_separator(again)
    for name, layer in one.network.layers.items():
        torch.testing.assert_close(layer.threshold, two.network.layers[name].threshold)
        steps = (layer.fixed.weight.int() - two.network.layers[name].fixed.weight.int()).abs()
        assert (
            int(steps.max()) <= 1
        )  # where the integers' thresholds tipped a spike, a weight may make up for it
        assert int(steps.sum()) < 0.05 * steps.numel()
    longer = replace(still, ptl=replace(still.ptl, n_steps=still.ptl.n_steps + 3))
    third = load_separator(convert_snn(data, tmp_path / "window", longer, ann, [snn])[0])
    assert third.network.coding.n_steps == one.network.coding.n_steps + 3
    torch.testing.assert_close(third.network[1].threshold, one.network[1].threshold)
    further = replace(RECIPE, ptl=replace(RECIPE.ptl, first_stage_learning_rate=1e-2))
    learned = load_separator(convert_snn(data, tmp_path / "three", further, ann, [snn])[0])
    assert not torch.equal(learned.network[1].synapse.weight, one.network[1].synapse.weight)
    with pytest.raises(SpikeSepError, match="from_snn"):
        convert_snn(data, tmp_path / "three", further, ann)
    taught = replace(further, ptl=replace(further.ptl, targets="ann"))
    taught = load_separator(convert_snn(data, tmp_path / "taught", taught, ann, [snn])[0])
    assert not torch.equal(taught.network[1].synapse.weight, learned.network[1].synapse.weight)
    for change, given, message in (
        ({"initial_potential": 0.25}, snn, "has ptl.initial_potential = 0.5, not 0.25"),
        ({"discretize": False}, snn, "learns on by"),
        ({}, ann, "does not spike"),
    ):
        recipe = replace(RECIPE, ptl=replace(RECIPE.ptl, **change))
        with pytest.raises(SpikeSepError, match=message):
            convert_snn(data, tmp_path / "four", recipe, ann, [given])
        assert not (tmp_path / "four" / "settings" / "snn.json").exists()


def test_of_several_networks_the_mean_learns_on(data, tmp_path):
    train_ann(data, tmp_path / "one", RECIPE)
    ann, (snn, _) = tmp_path / "one" / "ann", convert_snn(data, tmp_path / "one", RECIPE)
    learning = replace(
        RECIPE, ptl=replace(RECIPE.ptl, first_stage_learning_rate=1e-2, weight_bits=0)
    )
    learned, _ = convert_snn(data, tmp_path / "two", learning, ann, [snn])
    still = replace(RECIPE, ptl=replace(RECIPE.ptl, max_epochs=0, weight_bits=0))
    mean = load_separator(
        convert_snn(data, tmp_path / "mean", still, ann, [snn, learned, learned])[0]
    ).state_dict()
    one, two = load_separator(snn).state_dict(), load_separator(learned).state_dict()
    moved = 0.0
    for name, tensor in mean.items():
        if name.endswith(("weight", "bias")):
            expected = (one[name].double() + 2 * two[name].double()) / 3
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)
            moved = max(moved, float((one[name] - two[name]).abs().max()))
    assert moved > 1e-2
    other = replace(RECIPE, ptl=replace(RECIPE.ptl, percentile=60.0))
    stranger, _ = convert_snn(data, tmp_path / "other", other, ann)
    with pytest.raises(
        SpikeSepError,
        match=r"other.snn: has another network\.layers.*threshold than .*one.snn; give",
    ):
        convert_snn(data, tmp_path / "three", still, ann, [snn, stranger])


def test_a_network_that_gave_up_inputs_learns_on_without_them(data, tmp_path):
    train_ann(data, tmp_path / "one", RECIPE)
    fewer = replace(RECIPE, ptl=replace(RECIPE.ptl, fan_in=5, pruning="refit"))
    ann, (snn, _) = tmp_path / "one" / "ann", convert_snn(data, tmp_path / "one", fewer)
    one = load_separator(snn)
    two = load_separator(convert_snn(data, tmp_path / "two", fewer, ann, [snn])[0])
    for name, tensor in one.state_dict().items():
        if name.endswith("kept"):
            assert (tensor.flatten(1).sum(1) == 5).all()
            assert torch.equal(two.state_dict()[name], tensor)
    with pytest.raises(SpikeSepError, match=r"has ptl\.fan_in = 5, not 0"):
        convert_snn(data, tmp_path / "three", RECIPE, ann, [snn])


def test_other_settings_are_refused_in_the_same_folder(data, tmp_path):
    train_ann(data, tmp_path / "exp", RECIPE)
    with pytest.raises(SpikeSepError, match=r"ann\.epochs = 1, not 2"):
        train_ann(data, tmp_path / "exp", replace(RECIPE, ann=replace(RECIPE.ann, epochs=2)))


def test_a_fault_in_the_settings_can_be_mended_without_another_folder(data, tmp_path):
    with pytest.raises(SpikeSepError, match="n_gpus"):
        train_ann(data, tmp_path / "exp", replace(RECIPE, launch=LaunchConfig(n_gpus=99)))
    assert not (tmp_path / "exp" / "settings").exists()


def test_conversion_without_a_trained_network_names_the_stage(data, tmp_path):
    with pytest.raises(SpikeSepError, match="run stage 2"):
        convert_snn(data, tmp_path / "exp", RECIPE)
