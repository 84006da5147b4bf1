"""Conversion that starts from networks converted before."""

from dataclasses import replace

import pytest
import torch
from helpers.recipes import RECIPE, converting, link_data

from spikesep.errors import SpikeSepError
from spikesep.separation.experiment import convert_snn, train_ann
from spikesep.separation.initial_models import load_initial
from spikesep.separation.model.separator import load_separator


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
