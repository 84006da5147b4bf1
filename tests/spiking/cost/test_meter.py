import copy
import itertools

import pytest
import torch
from helpers.stacks import signal_before
from torch import nn

from spikesep.spiking.cost import Cost, CostMeter, SynopsEstimate, macs, measure, synops
from spikesep.spiking.hardware_limits import HardwareLimits
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal

SYNAPSES = {
    "linear": (nn.Linear(5, 7), (2, 5)),
    "conv1d strided": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "conv1d dilated": (nn.Conv1d(4, 6, 3, dilation=3, padding=3), (2, 4, 9)),
    "conv1d grouped": (nn.Conv1d(4, 6, 3, groups=2), (2, 4, 9)),
    "conv1d depthwise": (nn.Conv1d(6, 6, 3, padding=1, groups=6), (2, 6, 9)),
    "conv1d padded to the same length": (nn.Conv1d(4, 6, 4, padding="same"), (2, 4, 9)),
    "transposed": (nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1), (2, 4, 5)),
    "transposed grouped": (nn.ConvTranspose1d(4, 6, 5, 3, 0, 1, 2, dilation=2), (2, 4, 5)),
    "conv1d of eights": (nn.Conv1d(16, 6, 3, dilation=2, padding=2), (2, 16, 9)),
    "conv2d": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 6, 5)),
}


def arrivals(synapse, count):
    """Send the spikes of one input element at a time through weights of one, and count where they
    arrive.
    """
    ones = type(synapse)(**{k: getattr(synapse, k) for k in signature(synapse)}, bias=False)
    nn.init.ones_(ones.weight)
    total = 0
    for place in itertools.product(*map(range, count.shape)):
        x = torch.zeros(count.shape)
        x[place] = 1
        total += int((ones(x) != 0).sum()) * int(count[place])
    return total


def signature(synapse):
    if isinstance(synapse, nn.Linear):
        return ("in_features", "out_features")
    names = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
    )
    return names + (("output_padding",) if isinstance(synapse, nn.ConvTranspose1d) else ())


@pytest.mark.parametrize(("synapse", "shape"), SYNAPSES.values(), ids=SYNAPSES)
def test_every_spike_is_counted_at_every_neuron_it_reaches(synapse, shape):
    count = torch.randint(0, 5, shape).float()
    assert synops(Readout(synapse), count) == arrivals(synapse, count)
    assert macs(Readout(synapse), shape) == arrivals(synapse, torch.ones(shape))


def cost_of(layer, signal, out):
    """Return the cost of a layer before a readout that receives nothing."""
    meter, nothing = CostMeter(), Signal(torch.zeros(0, 1))
    meter("layer", layer, (signal,), out)
    meter("readout", Readout(nn.Linear(1, 1)), (nothing,), nothing)
    return meter.cost


@pytest.mark.parametrize("fan_in", [0, 3])
@pytest.mark.parametrize(("synapse", "shape"), SYNAPSES.values(), ids=SYNAPSES)
def test_the_meter_counts_the_spikes_of_all_sources(synapse, shape, fan_in):
    layer = SpikingLayer(copy.deepcopy(synapse))
    layer.convert(0.1, Coding(11), limits=HardwareLimits(fan_in=fan_in))
    layer.freeze()
    spikes = [torch.rand(11, *shape) < share for share in (0.1, 0.6)]
    first, second = (Signal.from_spikes(s, torch.tensor(0.1)) for s in spikes)
    signal = first + second
    out = layer(signal)
    cost = cost_of(layer, signal, out)
    assert cost.synops == synops(layer, sum(s.sum(0) for s in spikes).float())
    assert cost.spikes == (int(out.trains[0].spikes.sum()),)
    assert cost.neurons == (out.value.numel(),)


@pytest.mark.parametrize("n_places", [3, 8])
def test_vectors_of_several_places_are_counted_by_their_last_dimension(n_places):
    layer = SpikingLayer(nn.Linear(8, 5), before=nn.Sequential(nn.Dropout()))
    layer.convert(0.1, Coding(11), limits=HardwareLimits(fan_in=3))
    layer.freeze()
    signal = Signal.from_spikes(torch.rand(11, 2, n_places, 8) < 0.3, torch.tensor(0.1))
    expected = float((signal.count.long() * layer.limiter.kept.sum(0)).sum())
    assert cost_of(layer, signal, signal).synops == expected
    estimate = SynopsEstimate()
    estimate("layer", layer, (signal,), signal)
    assert float(estimate.synops) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("synapse", "before"),
    [
        (nn.Conv2d(8, 6, 3, padding=1, groups=2), nn.AvgPool2d(2)),
        (nn.Linear(8 * 3 * 2, 5), nn.Sequential(nn.AvgPool2d(2), nn.Flatten())),
    ],
)
def test_the_meter_counts_pooled_spikes_where_connections_are_gone(synapse, before):
    layer = SpikingLayer(copy.deepcopy(synapse), before=before)
    layer.convert(0.1, Coding(11), limits=HardwareLimits(fan_in=16))
    layer.freeze()
    signal = Signal.from_spikes(torch.rand(11, 2, 8, 6, 4) < 0.3, torch.tensor(0.1))
    cost = cost_of(layer, signal, layer(signal))
    assert cost.synops == pytest.approx(synops(layer, signal.count.float()), rel=1e-6)


@pytest.mark.parametrize(("synapse", "shape"), SYNAPSES.values(), ids=SYNAPSES)
def test_connections_that_a_limit_on_fan_in_removed_carry_nothing(synapse, shape):
    layer = SpikingLayer(copy.deepcopy(synapse))
    layer.convert(0.1, Coding(4), limits=HardwareLimits(fan_in=3))
    count = torch.randint(0, 5, shape).float()
    left = type(synapse)(**{k: getattr(synapse, k) for k in signature(synapse)}, bias=False)
    kept = layer.limiter.kept.float()
    if isinstance(synapse, nn.ConvTranspose1d):  # torch lays its weight out as [C_in, C_out, taps]
        kept = kept.unflatten(0, (synapse.groups, -1)).transpose(1, 2).flatten(0, 1)
    left.weight.data = kept
    expected = sum(
        int((left(spike) != 0).sum()) * int(count[place])
        for place in itertools.product(*map(range, shape))
        for spike in [
            torch.zeros(shape).index_put(tuple(map(torch.tensor, place)), torch.tensor(1.0))
        ]
    )
    assert synops(layer, count) == expected
    assert macs(layer, shape) == macs(Readout(synapse), shape)  # of the analog network
    assert layer.connectivity.n_macs(shape, layer.kept) == synops(layer, torch.ones(shape))


def test_macs_of_a_conv_worked_out_by_hand():
    # 5 outputs; padding takes one tap from the first and the last: 13 taps, 2 channels in, 3 out.
    assert macs(SpikingLayer(nn.Conv1d(2, 3, 3, padding=1)), (1, 2, 5)) == 13 * 2 * 3


def test_spikes_of_a_pooled_input_all_reach_the_synapse_but_its_macs_come_after_pooling():
    layer = SpikingLayer(nn.Linear(4, 10), before=nn.Sequential(nn.AvgPool2d(2), nn.Flatten()))
    assert synops(layer, torch.ones(1, 1, 4, 4)) == 16 * 10
    assert macs(layer, (1, 1, 4, 4)) == 4 * 10
    cost = measure(SpikingNetwork([layer], Readout(nn.Linear(10, 1))), torch.ones(1, 1, 4, 4))[1]
    assert cost.macs == cost.analog_macs == 4 * 10 + 10


def converted():
    torch.manual_seed(0)
    network = SpikingNetwork(
        [SpikingLayer(nn.Linear(5, 6)), SpikingLayer(nn.Linear(6, 7))], Readout(nn.Linear(7, 3))
    )
    for k in range(2):
        network[k].convert(0.05, Coding(8))
        network[k].freeze()
    return network.eval()


def test_an_analog_network_of_the_connections_that_are_left_would_do_less():
    network = SpikingNetwork([SpikingLayer(nn.Linear(5, 6))], Readout(nn.Linear(6, 3)))
    network[0].convert(0.05, Coding(8), limits=HardwareLimits(fan_in=2))
    network[0].freeze()
    _, cost = measure(network, torch.rand(4, 5))
    assert cost.macs == 4 * (5 * 6 + 6 * 3)
    assert cost.kept_macs == 4 * (2 * 6 + 6 * 3)
    assert cost.analog_macs == 4 * 2 * 6


def test_the_first_layer_stays_in_macs_and_the_rest_is_counted_in_spikes():
    network, x = converted(), torch.rand(4, 5)
    _, cost = measure(network, x)
    first = signal_before(network, x, 1)
    second = signal_before(network, x, 2)
    assert cost.macs == cost.kept_macs == 4 * (5 * 6 + 6 * 7 + 7 * 3)
    assert cost.analog_macs == 4 * 5 * 6
    assert cost.synops == int(first.count.sum()) * 7 + int(second.count.sum()) * 3
    assert cost.firing_rate == pytest.approx(
        [float(s.trains[0].spikes.float().mean()) for s in (first, second)]
    )


def test_spikes_that_pooling_leaves_over_reach_nothing():
    maps = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
    layer = SpikingLayer(nn.Linear(3 * 2 * 2, 7), before=maps)
    layer.convert(0.1, Coding(5))
    layer.freeze()
    spikes = torch.rand(5, 2, 3, 5, 5) < 0.5
    signal = Signal.from_spikes(spikes, torch.tensor(0.1))
    cost = cost_of(layer, signal, layer(signal))
    assert cost.synops == int(spikes[..., :4, :4].sum()) * 7
    assert cost.macs == 2 * 12 * 7


def test_costs_of_passes_add_up():
    network, x = converted(), torch.rand(4, 5)
    meter = CostMeter()
    for row in x:
        network(row[None], observe=meter)
    whole = measure(network, x)[1]
    assert meter.cost == whole
    assert Cost() + whole == whole


def test_costs_of_different_networks_do_not():
    with pytest.raises(ValueError, match="different networks"):
        Cost(1.0, n_steps=8) + Cost(1.0, n_steps=4)


def test_every_layer_before_an_identity_path_is_counted():
    torch.manual_seed(1)
    layers = [SpikingLayer(nn.Linear(5, 5), identity=k > 0) for k in range(2)]
    network = SpikingNetwork(layers, Readout(nn.Linear(5, 3)))
    for layer in layers:
        layer.convert(0.1, Coding(8))
    x = torch.rand(4, 5)
    _, cost = measure(network, x)
    with torch.no_grad():
        first, both = signal_before(network, x, 1), signal_before(network, x, 2)
    assert cost.synops == int(first.count.sum()) * 5 + int(both.count.sum()) * 3
    assert len(cost.spikes) == 2


@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("mode", ["discrete", "tandem"])
def test_the_estimate_in_training_is_the_measured_ratio_and_has_a_gradient(identity, mode):
    torch.manual_seed(0)
    layers = [SpikingLayer(nn.Linear(6, 6), identity=identity and k > 0) for k in range(3)]
    network = SpikingNetwork(layers, Readout(nn.Linear(6, 4)))
    coding, x = (
        Coding(8, deferred=True),
        torch.randn(5, 6),
    )  # deferred: spikes are as many as rounding says
    for layer in layers:
        (layer.discretize if mode == "discrete" else layer.convert)(0.05, coding)
    estimate = SynopsEstimate()
    network(x, observe=estimate)
    ratio = estimate.ratio
    ratio.backward()
    assert all((layer.synapse.weight.grad != 0).any() for layer in layers)
    for layer in layers:
        if mode == "discrete":
            layer.convert(0.05, coding)
        layer.freeze()
    assert float(ratio.detach()) == pytest.approx(measure(network, x)[1].synops_ratio, rel=1e-5)
    behind = SynopsEstimate()
    network.read(network.propagate(network.propagate(x, 0, 1), 1, 3, behind), behind)
    assert float(behind.synops.detach()) == pytest.approx(measure(network, x)[1].synops, rel=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_estimate_knows_which_connections_a_limit_on_fan_in_left(groups):
    torch.manual_seed(0)
    layers = [SpikingLayer(nn.Conv1d(6, 6, 1)), SpikingLayer(nn.Conv1d(6, 6, 1, groups=groups))]
    layers.append(SpikingLayer(nn.Linear(6, 6), before=nn.Flatten()))
    network = SpikingNetwork([*layers, SpikingLayer(nn.Linear(6, 6))], Readout(nn.Linear(6, 4)))
    for layer in network.layers.values():
        layer.convert(0.05, Coding(8, deferred=True), limits=HardwareLimits(fan_in=2))
        layer.freeze()
    assert len(network[1].limiter.kept.sum((0, 2)).unique()) > 1
    estimate, x = (
        SynopsEstimate(),
        torch.randn(5, 6, 1),
    )  # one place: what else is taken on average is exact
    network(x, observe=estimate)
    measured = measure(network, x)[1]
    assert float(estimate.synops) == pytest.approx(measured.synops)
    assert estimate.macs == measured.macs


def test_behind_an_analog_layer_no_spike_is_left_to_be_paid_for():
    torch.manual_seed(0)
    network = SpikingNetwork(
        [SpikingLayer(nn.Linear(6, 6)) for _ in range(3)], Readout(nn.Linear(6, 4))
    )
    network[0].convert(0.05, Coding(8))
    estimate, x = SynopsEstimate(), torch.randn(5, 6)
    network(x, observe=estimate)
    assert float(estimate.synops.detach()) == float(signal_before(network, x, 1).count.sum()) * 6


def test_the_estimate_counts_pooled_and_strided_synapses():
    layers = [
        SpikingLayer(nn.Conv2d(1, 2, 1)),
        SpikingLayer(nn.Conv2d(2, 3, 2, stride=2)),
        SpikingLayer(nn.Linear(3 * 4, 5), before=nn.Sequential(nn.AvgPool2d(2), nn.Flatten())),
    ]
    network, x = SpikingNetwork(layers, Readout(nn.Linear(5, 4))), torch.rand(2, 1, 8, 8)
    for layer in layers:
        layer.convert(0.05, Coding(4, deferred=True))
        layer.freeze()
    estimate = SynopsEstimate()
    network(x, observe=estimate)
    measured = measure(network, x)[1]
    assert float(estimate.synops.detach()) == pytest.approx(measured.synops)
    assert estimate.macs == measured.macs
