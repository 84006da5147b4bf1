import pytest
import torch
from helpers.separators import tiny_separator
from torch import nn

from spikesep.hardware_profiles import PROFILES
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.hardware_fit import Occupancy, check_fit, weight_bits
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding
from spikesep.training.config import ConversionConfig


def small_network(fan_in=0):
    """Convert a convolution of 6 x 3 inputs per neuron and a linear layer behind pooling."""
    torch.manual_seed(0)
    network = SpikingNetwork(
        [
            SpikingLayer(nn.Conv1d(6, 4, 3)),
            SpikingLayer(nn.Linear(4 * 5, 7), None, nn.Sequential(nn.AvgPool1d(2), nn.Flatten())),
        ],
        Readout(nn.Linear(7, 2)),
    )
    for layer in network.layers.values():
        layer.convert(0.1, Coding(4), limits=HardwareLimits(fan_in=fan_in))
        layer.freeze()
    return network


def test_neurons_and_inputs_are_those_counted_by_hand():
    occupancy = Occupancy()
    small_network()(torch.randn(3, 6, 12), observe=occupancy)
    assert occupancy.neurons == {"0": 4 * 10, "1": 7}
    assert occupancy.fan_in == {"0": 18, "1": 2 * 20, "readout": 7}


def test_pruned_inputs_do_not_count():
    occupancy = Occupancy()
    small_network(fan_in=10)(torch.randn(1, 6, 12), observe=occupancy)
    assert occupancy.fan_in["0"] == 10
    assert occupancy.fan_in["1"] == 10


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bits_are_those_of_the_largest_integer(bits):
    network = small_network()
    assert weight_bits(network) == 32
    to_fixed_point(network, [torch.randn(2, 6, 12)], bits=bits)
    assert weight_bits(network) == bits


def test_findings_say_what_fits_and_what_does_not():
    separator = tiny_separator("fixed", n_channels=40)
    features = separator.encode(torch.randn(1, 8000 * 14))[0]
    found = check_fit(separator.network, features, PROFILES["truenorth"])
    title, bits, inputs, neurons = found
    assert "Akopyan" in title
    assert "exceed its 2" in bits
    assert "up to 120 inputs per neuron" in inputs
    assert "fit its 256" in inputs
    assert f"{3 * 40 * features.shape[2]:,} neurons" in neurons
    assert "exceed" in neurons


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_set_what_conversion_must_keep(name):
    profile, config = PROFILES[name], ConversionConfig(profile=name)
    assert config.weight_bits <= profile.weight_bits
    assert config.qat_bits == (profile.weight_bits if profile.weight_bits < 8 else 0)
    assert config.fan_in == profile.fan_in
    assert ConversionConfig(profile=name, fan_in=100).fan_in == 100
    assert profile.source
