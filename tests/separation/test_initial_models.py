"""Conversion that starts from networks converted before."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.recipes import RECIPE, converting, link_data
from helpers.separators import tiny_separator

from spikesep.errors import SpikeSepError
from spikesep.separation.experiment import convert_snn, train_ann
from spikesep.separation.initial_models import load_initial, match_level
from spikesep.separation.model.separator import load_separator, save_separator


@pytest.fixture(scope="module")
def data(kept_experiment, tmp_path_factory):
    return link_data(kept_experiment, tmp_path_factory.mktemp("further") / "data")


@pytest.fixture(scope="module")
def converted(data):
    """An experiment with a trained and a converted network."""
    exp = data.with_name("one")
    train_ann(data, exp, RECIPE)
    convert_snn(data, exp, RECIPE)
    return exp


@pytest.fixture
def further(data, converted, tmp_path):
    """Convert the network further, from the spiking one unless others are given."""

    def convert(recipe, *snn, name="further"):
        given = snn or [converted / "snn"]
        return convert_snn(data, tmp_path / name, recipe, converted / "ann", given)[0]

    return convert


def test_conversion_without_training_leaves_weights_and_thresholds(converted, further):
    one = load_separator(converted / "snn")
    two = load_separator(further(converting(max_epochs=0)))
    for name, layer in one.network.layers.items():
        torch.testing.assert_close(layer.threshold, two.network.layers[name].threshold)
        steps = (layer.fixed.weight.int() - two.network.layers[name].fixed.weight.int()).abs()
        # An integer weight may compensate for a spike that the rounded threshold moved.
        assert int(steps.max()) <= 1
        assert int(steps.sum()) < 0.05 * steps.numel()


@pytest.mark.parametrize("n_steps", [2, 11])
def test_largest_output_is_kept_at_another_number_of_time_steps(converted, further, n_steps):
    one = load_separator(converted / "snn").network
    two = load_separator(further(converting(max_epochs=0, n_steps=n_steps))).network
    assert two.coding.n_steps == n_steps != one.coding.n_steps
    for ours, theirs in zip(two.layers.values(), one.layers.values(), strict=True):
        bound = theirs.threshold * one.coding.n_steps
        torch.testing.assert_close(ours.threshold * n_steps, bound, rtol=1e-3, atol=0)


def test_further_training_changes_weights(converted, further):
    one = load_separator(converted / "snn").network
    two = load_separator(further(converting(first_stage_learning_rate=1e-2))).network
    assert not torch.equal(two[1].synapse.weight, one[1].synapse.weight)


def test_targets_of_further_training_matter(further):
    given = {"first_stage_learning_rate": 1e-2}
    one = load_separator(further(converting(**given), name="sources")).network
    two = load_separator(further(converting(**given, targets="ann"), name="ann")).network
    assert not torch.equal(two[1].synapse.weight, one[1].synapse.weight)


def test_initial_network_is_recorded(data, converted, further):
    recipe = converting(max_epochs=0)
    exp = further(recipe).parent
    with pytest.raises(SpikeSepError, match="from_snn"):
        convert_snn(data, exp, recipe, converted / "ann")


@pytest.mark.parametrize(
    ("settings", "network", "message"),
    [
        ({"initial_potential": 0.25}, "snn", "has convert.initial_potential = 0.5, not 0.25"),
        ({"discretize": False}, "snn", "further training needs --convert.method ptl"),
        ({"qat_bits": 4}, "snn", "further training needs --convert.method ptl"),
        ({}, "ann", "does not spike"),
    ],
)
def test_unsuitable_network_is_refused(converted, further, tmp_path, settings, network, message):
    with pytest.raises(SpikeSepError, match=message):
        further(converting(**settings), converted / network)
    assert not (tmp_path / "further" / "settings" / "snn.json").exists()


def test_mean_of_several_networks_is_converted(converted, further):
    float32 = {"weight_bits": 0}
    learned = further(converting(first_stage_learning_rate=1e-2, **float32), name="learned")
    still = converting(max_epochs=0, **float32)
    mean = load_separator(further(still, converted / "snn", learned, learned)).state_dict()
    one, two = (load_separator(path).state_dict() for path in (converted / "snn", learned))
    moved = 0.0
    for name, tensor in mean.items():
        if name.endswith(("weight", "bias")):
            expected = (one[name].double() + 2 * two[name].double()) / 3
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)
            moved = max(moved, float((one[name] - two[name]).abs().max()))
    assert moved > 1e-2


def test_mean_of_unrelated_networks_is_refused(data, converted, further):
    other = data.with_name("other")
    stranger, _ = convert_snn(data, other, converting(percentile=60.0), converted / "ann")
    message = r"other.snn: has another network\.layers.*threshold than .*one.snn; give"
    with pytest.raises(SpikeSepError, match=message):
        further(converting(max_epochs=0), converted / "snn", stranger)


def test_pruned_inputs_stay_pruned(data, converted, tmp_path):
    fewer, ann = converting(fan_in=5, pruning="refit"), converted / "ann"
    snn, _ = convert_snn(data, tmp_path / "one", fewer, ann)
    one = load_separator(snn).state_dict()
    two = load_separator(convert_snn(data, tmp_path / "two", fewer, ann, [snn])[0]).state_dict()
    for name, tensor in one.items():
        if name.endswith("kept"):
            assert (tensor.flatten(1).sum(1) == 5).all()
            assert torch.equal(two[name], tensor)
    with pytest.raises(SpikeSepError, match=r"has convert\.fan_in = 5, not 0"):
        convert_snn(data, tmp_path / "three", RECIPE, ann, [snn])


def test_initial_separators_grow_to_the_recipe(converted, capsys):
    larger = replace(RECIPE, model=replace(RECIPE.model, n_speakers=3))
    assert load_initial(converted / "ann", larger).config == larger.model
    assert "carried over" in capsys.readouterr().out
    narrower = replace(RECIPE, model=replace(RECIPE.model, n_channels=RECIPE.model.n_channels - 1))
    with pytest.raises(SpikeSepError, match=r"model\.n_channels"):
        load_initial(converted / "ann", narrower)
    with pytest.raises(SpikeSepError, match="converted already"):
        load_initial(converted / "snn", larger)


def crops_of(model, gain, *, silent=False):
    """Mixtures, and as sources what a model makes of them at another level, in another order."""
    generator, crops = torch.Generator().manual_seed(0), []
    for _ in range(3):
        mixture = torch.randn(800, generator=generator)
        sources = model(mixture[None])[0].detach().flip(0) * gain
        crops.append((mixture, sources * torch.tensor([[1.0], [0.0 if silent else 1.0]])))
    return crops


@pytest.mark.parametrize("kind", ["ann", "snn"])
@pytest.mark.parametrize("silent", [False, True])
def test_estimates_get_the_level_of_the_sources(kind, silent):
    model = tiny_separator(kind)
    crops = crops_of(model, 0.25, silent=silent)
    wanted = crops_of(model, 0.25)
    assert match_level(model, crops) == pytest.approx(20 * math.log10(0.25), abs=1e-3)
    for mixture, sources in wanted:
        torch.testing.assert_close(model(mixture[None])[0].flip(0), sources)


def test_estimates_near_the_level_of_the_sources_stay_as_they_are():
    model = tiny_separator()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert match_level(model, crops_of(model, 1.3)) == 0
    assert match_level(model, [(torch.zeros(800), torch.zeros(2, 800))]) == 0
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


@pytest.mark.parametrize("stage", ["training", "conversion"])
def test_level_is_matched_where_the_loss_hears_it(data, converted, tmp_path, capsys, stage):
    loud = tmp_path / "loud"
    for kind in ("ann", "snn"):
        model = load_separator(converted / kind)
        with torch.no_grad():
            for parameter in model.decoder.parameters():
                parameter.mul_(100.0)
        save_separator(model, loud / kind)
    for loss in ("si_sdr", "snr"):
        recipe = converting(max_epochs=0)
        recipe = replace(recipe, train=replace(recipe.train, loss=loss))
        if stage == "training":
            train_ann(data, tmp_path / loss, recipe, loud / "ann")
        else:
            convert_snn(data, tmp_path / loss, recipe, loud / "ann", [loud / "snn"])
        said = "to the level of the sources" in capsys.readouterr().out
        assert said == (loss == "snr")
