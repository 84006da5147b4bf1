import numpy as np
import pytest
import torch
from helpers.regression import RegressionTrainer
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.ptl import ProgressiveTandemLearning
from spikesep.spiking.hardware_limits import HardwareLimits, Limiter, grid_scale, on_grid, strongest
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal


@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_points_lie_on_a_symmetric_grid_of_the_bits_and_are_the_nearest(bits, seed):
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=200)).float()
    scale = grid_scale(values, bits)
    found = on_grid(values, scale, bits).double()
    levels = np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))
    points = torch.from_numpy(levels) * scale.double()
    nearest = points[(values.double()[:, None] - points).abs().argmin(1)]
    torch.testing.assert_close(found / scale, (found / scale).round(), rtol=0, atol=1e-5)
    farther = (found - values).abs() - (nearest - values).abs()  # of two points as near, either
    assert farther.max() < 1e-6
    assert len(found.unique()) <= 2**bits - 1


def test_a_point_of_the_grid_stays_where_it_is():
    values = torch.randn(500, generator=torch.Generator().manual_seed(0))
    scale = grid_scale(values, 4)
    once = on_grid(values, scale, 4)
    assert torch.equal(once, on_grid(once, scale, 4))


def test_the_scale_beats_that_of_the_whole_range():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    whole = values.abs().max() / 7
    error = [
        float((on_grid(values, s, 4) - values).square().sum())
        for s in (grid_scale(values, 4), whole)
    ]
    assert error[0] < 0.8 * error[1]


def test_zeros_can_be_coded():
    assert torch.equal(on_grid(torch.zeros(3), grid_scale(torch.zeros(3), 4), 4), torch.zeros(3))


@given(st.integers(1, 20))
def test_each_neuron_keeps_its_strongest_inputs(fan_in):
    weight = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(fan_in))
    kept = strongest(weight, fan_in)
    for row, chosen in zip(weight.abs().flatten(1), kept.flatten(1), strict=True):
        assert int(chosen.sum()) == min(fan_in, 18)
        assert chosen.all() or row[chosen].min() >= row[~chosen].max()


def test_pooling_before_a_synapse_counts_in_the_fan_in():
    synapse = nn.Conv2d(2, 3, 3)
    layer = SpikingLayer(synapse, before=nn.Sequential(nn.AvgPool2d(2)))
    layer.convert(1.0, Coding(4), limits=HardwareLimits(fan_in=20))
    assert layer.limiter.kept.flatten(1).sum(1).tolist() == [5, 5, 5]
    with pytest.raises(SpikeSepError, match="fan_in"):
        Limiter(HardwareLimits(fan_in=3), synapse.weight, synapse.bias, n_pooled=4)


def layer_with(limits):
    torch.manual_seed(0)
    layer = SpikingLayer(nn.Linear(12, 5), nn.BatchNorm1d(5)).eval()
    layer.convert(0.3, Coding(4), limits=limits)
    return layer


def test_neurons_get_copies_and_the_twin_keeps_full_precision():
    layer = layer_with(HardwareLimits(weight_bits=4, fan_in=6))
    master = layer.synapse.weight.detach().clone()
    weight, _ = layer.neuron_weights()
    assert torch.equal(layer.synapse.weight, master)
    steps = (weight / layer.limiter.weight_scale).detach()
    torch.testing.assert_close(steps, steps.round())
    assert (weight[~layer.limiter.kept] == 0).all()
    x = torch.rand(7, 12)
    weight, bias = (v.detach() for v in (weight, layer.neuron_weights()[1]))
    expected = SpikingLayer(nn.Linear(12, 5))
    expected.synapse.weight.data, expected.synapse.bias.data = weight, bias
    expected.convert(0.3, Coding(4))
    assert torch.equal(layer.fire(Signal(x)).value, expected.fire(Signal(x)).value)
    twin = torch.relu(
        torch.nn.functional.linear(x, master * layer.limiter.kept, layer.synapse.bias)
    )
    torch.testing.assert_close(layer.activation(x), twin)


def test_the_master_weights_learn_and_the_grid_stays():
    layer = layer_with(HardwareLimits(weight_bits=4, fan_in=6))
    scale, before = layer.limiter.weight_scale.clone(), layer.synapse.weight.detach().clone()
    layer(Signal(torch.rand(7, 12))).value.sum().backward()
    assert (layer.synapse.weight.grad[~layer.limiter.kept] == 0).all()
    with torch.no_grad():
        layer.synapse.weight -= 0.01 * layer.synapse.weight.grad
    assert not torch.equal(before, layer.synapse.weight)
    assert torch.equal(scale, layer.limiter.weight_scale)


def network():
    torch.manual_seed(0)
    layers = [SpikingLayer(nn.Linear(6, 6), nn.BatchNorm1d(6)) for _ in range(3)]
    net = SpikingNetwork(layers, Readout(nn.Linear(6, 2)))
    for _ in range(20):
        net(torch.rand(64, 6))
    return net.eval()


def trainer_of(net):
    return RegressionTrainer(net, steps=5, train_norms=False)


def synapses(net):
    return [
        *((layer.synapse, layer.limiter) for layer in net.layers.values()),
        (net.readout.synapse, net.readout.limiter),
    ]


def learned(limits, pruning="magnitude"):
    net = network()
    stages = []

    def watch(progress):
        stages.append(
            (progress.stage, [layer.limiter is not None for layer in net.layers.values()])
        )

    learning = ProgressiveTandemLearning(
        net,
        net,
        trainer_of(net),
        Coding(8),
        limits=limits,
        pruning=pruning,
        patience=3,
        max_epochs=4,
        on_epoch=watch,
    )
    learning.run()
    return net, stages, learning


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_all_weights_and_biases_of_the_converted_network_are_integers_on_their_grid(bits):
    net, _, _ = learned(HardwareLimits(weight_bits=bits))
    levels = 2 ** (bits - 1) - 1
    for synapse, limiter in synapses(net):
        for values, scale in (
            (synapse.weight, limiter.weight_scale),
            (synapse.bias, limiter.bias_scale),
        ):
            k = values / scale
            torch.testing.assert_close(k, k.round(), rtol=0, atol=1e-5)
            assert k.abs().max() <= levels + 1e-4


def test_no_neuron_of_the_converted_network_has_more_inputs_than_the_limit():
    net, _, _ = learned(HardwareLimits(fan_in=3))
    for synapse, _ in synapses(net):
        assert int((synapse.weight != 0).sum(1).max()) <= 3


@pytest.mark.parametrize("bits", [0, 4])
def test_inputs_that_are_missed_least_are_given_up_before_the_first_stage(bits):
    net, stages, _ = learned(HardwareLimits(fan_in=3, weight_bits=bits), "refit")
    assert all(all(limited) for _, limited in stages)
    for synapse, limiter in synapses(net):
        assert (limiter.kept.sum(1) == 3).all()
        assert (synapse.weight[~limiter.kept] == 0).all()
        assert limiter.limits == HardwareLimits(bits, 3)


def test_a_network_that_gave_up_inputs_learns_on_without_them():
    net, _, _ = learned(HardwareLimits(fan_in=3), "refit")
    kept = [limiter.kept.clone() for _, limiter in synapses(net)]
    before = [synapse.weight.clone() for synapse, _ in synapses(net)]
    net.thaw()
    ProgressiveTandemLearning(
        net,
        net,
        trainer_of(net),
        Coding(8),
        limits=HardwareLimits(fan_in=3),
        pruning="refit",
        max_epochs=2,
    ).run()
    assert all(
        torch.equal(limiter.kept, mask)
        for (_, limiter), mask in zip(synapses(net), kept, strict=True)
    )
    assert any(
        not torch.equal(now.weight, then)
        for (now, _), then in zip(synapses(net), before, strict=True)
    )
    net, _, _ = learned(HardwareLimits(fan_in=3, weight_bits=4))
    with pytest.raises(ValueError, match="weights of few bits"):
        net.thaw()


def test_limits_are_imposed_layer_by_layer():
    _, stages, _ = learned(HardwareLimits(weight_bits=4))
    assert all(limited == [index <= stage for index in range(3)] for stage, limited in stages)


def test_learning_under_limits_makes_up_for_them():
    net, _, _ = learned(HardwareLimits(weight_bits=3))
    tuned = trainer_of(net).validate(0)
    net = network()
    ProgressiveTandemLearning(
        net, net, trainer_of(net), Coding(8), limits=HardwareLimits(weight_bits=3), max_epochs=0
    ).run()
    assert tuned < trainer_of(net).validate(0)


@pytest.mark.parametrize("settings", [{"weight_bits": 1}, {"weight_bits": 20}, {"fan_in": -1}])
def test_limits_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match="give"):
        HardwareLimits(**settings)


def test_a_limited_fan_in_takes_its_threshold_from_what_is_left_of_the_inputs():
    net, _, learning = learned(HardwareLimits(fan_in=1))
    for choice, layer in zip(learning.choices, net.layers.values(), strict=True):
        assert choice.upper_bound / 8 == pytest.approx(float(layer.threshold))
        assert choice.clipped_share < 0.65  # the lowest percentile that is tried is 40
