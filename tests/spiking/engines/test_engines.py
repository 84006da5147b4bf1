import itertools
from dataclasses import replace

import pytest
import torch
from helpers.stacks import classifiers, converted, run, same_spikes, signal_before, stacks_1d
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from spikesep.spiking import engines
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.engines import FEW_INPUTS, dense
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal
from spikesep.spiking.synapses.modules import ConvTranspose


def convolve(s, x, weight):
    if isinstance(s, ConvTranspose):
        return scatter(s, x, weight)
    conv = F.conv1d if isinstance(s, nn.Conv1d) else F.conv2d
    return conv(x, weight, None, s.stride, s.padding, s.dilation, s.groups)


def scatter(s, x, weight):
    """Transposed convolution by loops: frame i adds to frame i * stride + tap * dilation."""
    (stride,), (padding,), (dilation,) = s.stride, s.padding, s.dilation
    n_taps = weight.shape[2]
    length = (x.shape[2] - 1) * stride + dilation * (n_taps - 1) + 1 + s.output_padding[0]
    z = x.new_zeros(len(x), len(weight), length)
    n_in, n_out = weight.shape[1], len(weight) // s.groups
    for group, i, tap in itertools.product(range(s.groups), range(x.shape[2]), range(n_taps)):
        own = slice(group * n_out, (group + 1) * n_out)
        arriving = x[:, group * n_in : (group + 1) * n_in, i] @ weight[own, :, tap].T
        z[:, own, i * stride + tap * dilation] += arriving
    return z[:, :, padding : length - padding]


def plain_loop(layer, signal):
    """Counts of a fixed-point layer in Python's terms: int64, one step after the other, every
    synapse on its own. A leak of 2^-k takes the floor of that share of the potential.
    """
    fixed, coding = layer.fixed, layer.coding
    shape = (
        [-1] + [1] * (layer.synapse.weight.ndim - 2)
        if not isinstance(layer.synapse, nn.Linear)
        else [-1]
    )

    def across(v):
        return v.double().view(shape)

    if signal.is_spiking:
        steps = sum(t.spikes.double() * t.multiple for t in signal.trains)
    else:
        levels = int(fixed.input_levels)
        units = (signal.value.double() / fixed.input_unit).round().clamp(-levels, levels)
        rest = torch.zeros_like(units) if coding.encoding == "impulse" else units
        steps = torch.stack([units, *[rest] * (coding.n_steps - 1)])
    potential, counts, waits = across(fixed.initial), 0, coding.deferred and signal.is_spiking
    leak = 1 - coding.beta
    for x in steps:
        for module in [] if layer.before is None else layer.before.modules():
            if isinstance(module, nn.AvgPool1d):
                x = F.avg_pool1d(x, module.kernel_size) * module.kernel_size[0]
            elif isinstance(module, nn.AvgPool2d):
                x = F.avg_pool2d(x, module.kernel_size) * module.kernel_size**2
            elif isinstance(module, nn.Flatten):
                x = x.flatten(1)
        s, weight = layer.synapse, fixed.weight.double()
        z = x @ weight.T if isinstance(s, nn.Linear) else convolve(s, x, weight)
        z = z.round() * 2 ** int(fixed.fraction) + across(fixed.bias)
        potential = potential - (leak * potential).floor() + z
        if waits:
            continue
        fires = potential >= across(fixed.threshold)
        rest = 0 * potential if coding.reset == "zero" else potential - across(fixed.threshold)
        potential = torch.where(fires, rest, potential)
        counts = counts + fires.int()
    for _ in range(coding.n_steps if waits else 0):  # the window in which it fires
        fires = potential >= across(fixed.threshold)
        potential = torch.where(fires, potential - across(fixed.threshold), potential)
        counts = counts + fires.int()
    return counts


@settings(max_examples=40)
@given(st.one_of(stacks_1d(), classifiers()))
def test_in_fixed_point_all_engines_fire_the_same_spikes_as_a_plain_loop(case):
    network, x = case
    to_fixed_point(network, [x])
    expected = run(network, x, "dense")
    for engine in ("auto", "event"):  # gpu: see test_gpu
        assert same_spikes(expected, run(network, x, engine)), engine
    signal = Signal(x)
    for name, layer in network.layers.items():
        assert torch.equal(expected[name].count, plain_loop(layer, signal)), name
        signal = signal + expected[name] if layer.identity else expected[name]


@settings(max_examples=20)
@given(st.one_of(stacks_1d(), classifiers()))
def test_the_way_of_an_accelerator_gives_the_same_spikes(case):
    """Its torch operations, here run on the CPU."""
    network, x = case
    to_fixed_point(network, [x])
    expected = run(network, x, "dense")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "COMPILED", "no device")
        assert same_spikes(expected, run(network, x, "dense"))


@settings(max_examples=25)
@given(st.one_of(stacks_1d(), classifiers()))
def test_in_floats_the_event_engine_differs_at_most_where_rounding_decides(case):
    network, x = case
    signal = Signal(x)
    for layer in network.layers.values():
        layer.engine = "dense"
        expected = layer(signal)
        if signal.is_spiking:
            layer.engine = "event"
            differing = (layer(signal).count != expected.count).float().mean()
            assert differing <= 0.01
        signal = signal + expected if layer.identity else expected


def test_an_engine_that_there_is_not_is_refused():
    network = converted([SpikingLayer(nn.Linear(3, 3))], Readout(nn.Linear(3, 1)), Coding(4), [0.5])
    with pytest.raises(ValueError, match="engine must be one of auto, dense, event, gpu"):
        network.use_engine("warp")


def test_a_geometry_without_connections_is_named():
    layers = [
        SpikingLayer(nn.Conv1d(2, 2, 1)),
        SpikingLayer(nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect")),
    ]
    network = converted(layers, Readout(nn.Conv1d(2, 1, 1)), Coding(4), [0.5, 0.5])
    network.use_engine("event")
    with pytest.raises(NotImplementedError, match="reflect"):
        network(torch.rand(1, 2, 5))


def test_a_layer_says_what_it_ran_on_and_why():
    layers = [SpikingLayer(nn.Conv1d(2, 2, 1)) for _ in range(2)]
    network = converted(layers, Readout(nn.Conv1d(2, 1, 1)), Coding(4), [0.5, 0.5])
    network(torch.rand(1, 2, 5))
    assert layers[0].ran_on == "dense: the input is analog"
    to_fixed_point(network, [torch.rand(1, 2, 5)])
    for level, engine in ((0.0, "event"), (1.0, "dense")):
        layers[0].fixed.bias.fill_(int(layers[0].fixed.threshold[0] * level))
        network(torch.zeros(1, 2, FEW_INPUTS))
        assert layers[1].ran_on.startswith(f"{engine}: ")


def test_blocks_of_a_live_stream_run_on_dense_whatever_they_fire():
    layers = [SpikingLayer(nn.Conv1d(2, 2, 1)) for _ in range(2)]
    network = converted(layers, Readout(nn.Conv1d(2, 1, 1)), Coding(4), [0.5, 0.5])
    to_fixed_point(network, [torch.rand(1, 2, 5)])
    for n_frames, engine in ((FEW_INPUTS // 2, "dense"), (FEW_INPUTS // 2 + 1, "event")):
        network(torch.zeros(1, 2, n_frames))
        assert layers[1].ran_on.startswith(f"{engine}: ")


FLOAT_LAYERS = {
    "wide": (lambda: nn.Conv1d(64, 64, 3, padding=1), {}),
    "grouped": (lambda: nn.Conv1d(64, 64, 3, padding=1, groups=2), {}),
    "without a table": (lambda: nn.Conv1d(64, 64, 3, padding=1, padding_mode="reflect"), {}),
    "deferred": (lambda: nn.Conv1d(64, 64, 3, padding=1), {"deferred": True}),
}


@pytest.mark.parametrize(("make", "options"), FLOAT_LAYERS.values(), ids=FLOAT_LAYERS)
def test_with_float_weights_the_engine_hangs_on_the_layer_alone(make, options):
    """Not on the spikes, the batch, the threads or, once it is frozen, autocast."""
    layer = SpikingLayer(make())
    layer.convert(0.5, Coding(9, **options))
    fired, on = [], set()
    for rate in (0.02, 0.9):
        spikes = torch.rand(9, 6, 64, 11, generator=torch.Generator().manual_seed(0)) < rate
        signal = Signal.from_spikes(spikes, torch.tensor(0.5))
        with torch.no_grad():
            whole = layer(signal)
            on.add(layer.ran_on.partition(":")[0])
            alone = layer(Signal.from_spikes(spikes[:, 2:3], torch.tensor(0.5)))
        assert torch.equal(whole.trains[0].words[:, 2:3], alone.trains[0].words)
        fired.append((signal, whole))
    layer.freeze()
    for signal, before in fired:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer(signal).trains[0].words, before.trains[0].words)
        on.add(layer.ran_on.partition(":")[0])
    assert on == {"dense"}


@settings(max_examples=20)
@given(stacks_1d())
def test_deferred_neurons_count_what_rounding_gives_whatever_the_order_of_spikes(case):
    """Spikes in another order, of the same number, change nothing behind them."""
    network, x = case
    layer = network[1]
    layer.coding = replace(layer.coding, deferred=True, reset="subtract", beta=1.0)
    with torch.no_grad():
        signal = signal_before(network, x, 1)
        (trains,) = signal.trains
        reversed_order = Signal.from_spikes(trains.spikes.flip(0), trains.threshold)
        expected = layer.rounded(layer.activation(signal.value)) / layer.threshold
        for given_signal in (signal, reversed_order):
            fired = layer.fire(given_signal)
            assert torch.equal(fired.count, expected.round().int())
            first_silent = fired.trains[0].spikes.long().cumprod(0).sum(0)
            assert torch.equal(first_silent, fired.count.long()), "spikes come one after the other"


def test_a_registered_engine_runs_every_layer(monkeypatch):
    monkeypatch.setattr(engines, "_registered", {})
    calls = []

    def counting(call, signals):
        calls.append(call)
        return dense.run(call, signals)

    with pytest.raises(ValueError, match="built in"):
        engines.register("dense", counting)
    layers = [SpikingLayer(nn.Conv1d(6, 8, 3)), SpikingLayer(nn.Conv1d(8, 8, 3))]
    network = converted(layers, Readout(nn.Conv1d(8, 2, 1)), Coding(8), [0.1, 0.1])
    x = torch.randn(2, 6, 12)
    expected = network(x)
    with pytest.raises(ValueError, match="engine must be one of"):
        network.use_engine("counting")
    engines.register("counting", counting)
    network.use_engine("counting")
    assert torch.equal(network(x), expected)
    assert len(calls) == len(network)
    assert {layer.ran_on for layer in network.layers.values()} == {"counting: as asked for"}
