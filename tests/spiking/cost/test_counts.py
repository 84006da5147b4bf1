"""Counts of operations against counts by hand and against plain loops."""

import itertools

import pytest
import torch
from helpers.stacks import signal_before
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.cost import Cost, CostMeter, Operations, measure
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal


def cost_of(synapse, signal, kept=None):
    """Return the cost of one synapse for a signal."""
    readout = Readout(synapse)
    if kept is not None:
        readout.fold()
        readout.prune(kept, fan_in=kept[0].numel())
    meter = CostMeter()
    meter("readout", readout, (signal,), Signal(torch.zeros(1, 1)))
    return meter.cost


def spikes_of(counts, n_steps=11):
    """Return a signal in which the neurons fire these counts, [batch, ...]."""
    fired = torch.arange(n_steps).view(-1, *[1] * counts.ndim) < counts
    return Signal.from_spikes(fired, torch.tensor(0.5))


HAND_COUNTED = {
    # Both outputs read all three inputs: (2 + 0 + 1) * 2 spikes arrive, from 2 active inputs.
    "linear": (nn.Linear(3, 2), [[2, 0, 1]], {"synops": 6, "active_macs": 4, "macs": 6}),
    # Outputs lie at positions 0, 2, 4, so positions are read 1, 2, 1, 2, 1 times.
    "conv1d, stride 2, padding 1": (
        nn.Conv1d(1, 1, 3, stride=2, padding=1), [[[0, 3, 0, 0, 1]]],
        {"synops": 3 * 2 + 1, "active_macs": 2 + 1, "macs": 7},
    ),
    # Each channel is read by its own outputs, its positions 2, 3, 2 times.
    "depthwise": (
        nn.Conv1d(2, 2, 3, padding=1, groups=2), [[[2, 0, 0], [0, 1, 0]]],
        {"synops": 2 * 2 + 3, "active_macs": 2 + 3, "macs": 14},
    ),
    # Input i reaches outputs 2i - 1, 2i, 2i + 1 of 0..4: 2, 3, 2 outputs.
    "transposed, stride 2, padding 1": (
        nn.ConvTranspose1d(1, 1, 3, stride=2, padding=1), [[[1, 0, 4]]],
        {"synops": 2 + 4 * 2, "active_macs": 4, "macs": 7},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("synapse", "counts", "expected"), HAND_COUNTED.values(), ids=HAND_COUNTED)
def test_counts_are_those_worked_out_by_hand(synapse, counts, expected):
    cost = cost_of(synapse, spikes_of(torch.tensor(counts)))
    assert {name: getattr(cost, name) for name in expected} == expected
    assert cost.readout_synops == cost.full_synops == cost.synops
    analog = cost_of(synapse, Signal(torch.tensor(counts) * -0.5))
    assert (analog.active_macs, analog.macs, analog.synops) == (
        expected["active_macs"], expected["macs"], 0,
    )  # fmt: skip


def test_a_pruned_connection_carries_nothing_except_in_the_full_count():
    kept = torch.tensor([[True, True, True], [True, False, False]])
    cost = cost_of(nn.Linear(3, 2), spikes_of(torch.tensor([[2, 0, 1]])), kept)
    # Neuron 0 receives 3 spikes from 2 inputs, neuron 1 receives 2 from one.
    assert (cost.synops, cost.full_synops, cost.active_macs) == (5, 6, 3)
    assert (cost.macs, cost.kept_macs) == (6, 4)


def loop_over_conv1d(conv, counts, kept):
    """Count MACs, synaptic operations, the same unpruned, and active inputs of a Conv1d."""
    batch, _, length = counts.shape
    (stride,), (padding,), (dilation,) = conv.stride, conv.padding, conv.dilation
    n_in, n_out = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    n_positions = (length + 2 * padding - dilation * (conv.kernel_size[0] - 1) - 1) // stride + 1
    totals = [0, 0, 0, 0]
    places = (batch, conv.out_channels, n_positions, n_in, conv.kernel_size[0])
    for b, out, position, i, tap in itertools.product(*map(range, places)):
        at = position * stride - padding + tap * dilation
        if not 0 <= at < length:
            continue
        count, is_kept = int(counts[b, out // n_out * n_in + i, at]), bool(kept[out, i, tap])
        for k, n in enumerate((is_kept, count * is_kept, count, (count > 0) * is_kept)):
            totals[k] += n
    return totals


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([(1, 8, 3), (2, 8, 4), (4, 4, 4), (1, 3, 2)]),
    st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2),
    st.integers(0, 1000),
)  # fmt: skip
def test_counts_are_those_of_plain_loops(channels, kernel, stride, padding, dilation, seed):
    generator = torch.Generator().manual_seed(seed)
    groups, n_in, n_out = channels
    conv = nn.Conv1d(n_in, n_out, kernel, stride, padding, dilation, groups)
    counts = (torch.rand(2, n_in, 6, generator=generator) * 6 - 2).clamp(min=0).int()
    kept = torch.rand(conv.weight.shape, generator=generator) < 0.6
    expected = loop_over_conv1d(conv, counts, kept)
    cost = cost_of(conv, spikes_of(counts), kept)
    assert [cost.kept_macs, cost.synops, cost.full_synops, cost.active_macs] == expected
    analog = cost_of(conv, Signal(counts.float()), kept)
    assert [analog.kept_macs, analog.active_macs] == [expected[0], expected[3]]


def test_pooled_activations_are_zero_only_if_all_inputs_are():
    value = torch.tensor([[[0.0, 0.0, 0.0, 2.0]]])
    readout = Readout(nn.Conv1d(1, 5, 1), nn.AvgPool1d(2))
    meter = CostMeter()
    meter("readout", readout, (Signal(value),), Signal(torch.zeros(1, 1)))
    assert (meter.cost.macs, meter.cost.active_macs) == (10, 5)


def converted(deferred, engine="auto"):
    torch.manual_seed(0)
    layers = [
        SpikingLayer(nn.Conv1d(5, 16, 1)),
        SpikingLayer(nn.Conv1d(16, 16, 3, padding=2, dilation=2)),
        SpikingLayer(nn.Conv1d(16, 16, 3, padding=1, groups=2), identity=True),
    ]
    network = SpikingNetwork(layers, Readout(nn.Conv1d(16, 3, 1)))
    for layer in layers:
        layer.convert(0.1, Coding(8, deferred=deferred))
        layer.freeze()
    x = torch.randn(2, 5, 20)
    to_fixed_point(network, [x])
    network.use_engine(engine)
    return network.eval(), x


@pytest.mark.parametrize("deferred", [False, True])
def test_every_engine_gives_the_same_counts(deferred):
    costs = []
    for engine in ("auto", "dense", "event"):
        network, x = converted(deferred, engine)
        costs.append(measure(network, x)[1])
    assert costs[0] == costs[1] == costs[2]
    assert costs[0].active_macs < costs[0].synops
    assert costs[0].deferred == deferred


def test_roles_are_counted_apart():
    network, x = converted(deferred=True)
    cost = measure(network, x)[1]
    behind = signal_before(network, x, 3)
    assert cost.readout_synops == sum(trains.n_spikes for trains in behind.trains) * 3
    assert cost.analog_macs == x.numel() * 16
    assert cost.neuron_updates == 8 * 3 * 2 * 16 * 20


def test_costs_add_up_in_every_count_and_divide():
    network, x = converted(deferred=True)
    whole = measure(network, x)[1]
    halves = sum((measure(network, row[None])[1] for row in x), Cost())
    assert halves == whole
    assert (whole / 2).active_macs == whole.active_macs / 2
    assert (whole / 2).firing_rate == pytest.approx(whole.firing_rate)
    assert Operations(1, 2) + Operations(3, 4) * 2 == Operations(7, 10)
