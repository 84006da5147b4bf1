"""Networks with learned steps convert to the values that they were trained with."""

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking import Coding, Levels, NotConvertibleError, calibrate, convert, from_module
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.levels.network import (
    add_levels,
    begin_levels,
    levels_settings,
    remove_levels,
    settle_levels,
)
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.synaptic import Synaptic
from spikesep.spiking.wiring.wires import Output

NEAR_TIE = 1e-5
"""Distance from the border of two levels, in steps, that a folded norm may cross."""


def layers_in_a_row(path):
    """Three layers with norms, two of them with a path around them."""
    layers = {"first": SpikingLayer(nn.Conv1d(5, 6, 1, bias=False), nn.BatchNorm1d(6))}
    for k in range(2):
        synapse = nn.Conv1d(6, 6, 3, padding=2, dilation=2, groups=1 + k, bias=False)
        options = {} if path == "none" else {path: True}
        layers[f"dilated{k}"] = SpikingLayer(synapse, nn.BatchNorm1d(6), **options)
    return SpikingNetwork(layers, Readout(nn.Conv1d(6, 2, 1)))


def with_shortcut():
    """A residual addition of a synapse of its own, before the activation."""
    layers = {
        "first": SpikingLayer(nn.Conv1d(5, 6, 1, bias=False), nn.BatchNorm1d(6)),
        "inner": SpikingLayer(nn.Conv1d(6, 4, 3, padding=1, bias=False), nn.BatchNorm1d(4)),
        "joint": SpikingLayer(
            nn.Conv1d(4, 6, 1, bias=False),
            nn.BatchNorm1d(6),
            shortcuts=[Synaptic(nn.Conv1d(6, 6, 1))],
        ),
    }
    wiring = {
        "first": (Output("input"),),
        "inner": (Output("first"),),
        "joint": (Output("inner"), Output("first")),
        "readout": (Output("joint"),),
    }
    return SpikingNetwork(layers, Readout(nn.Conv1d(6, 2, 1)), wiring)


@st.composite
def networks(draw):
    torch.manual_seed(draw(st.integers(0, 10_000)))
    path = draw(st.sampled_from(["none", "identity", "residual", "shortcut"]))
    network = with_shortcut() if path == "shortcut" else layers_in_a_row(path)
    x = torch.randn(8, 5, 12)
    for _ in range(3):
        network.train()(x * 1.5)  # norms with statistics
    network.eval()
    scalable = path in ("none", "residual")
    options = {
        "n_steps": draw(st.integers(1, 8)),
        "kind": draw(st.sampled_from(["qcfs", "lsq"])),
        "per": draw(st.sampled_from(["layer", "channel"])) if scalable else "layer",
        "shift": draw(st.sampled_from([0.0, 0.25, 0.5])),
    }
    begin_levels(network, x, **options)
    for layer in network.layers.values():  # as if learned
        steps = layer.levels.step.detach()
        layer.levels.set_step(steps * (0.5 + torch.rand(len(steps))))
    return network.eval(), x


def outputs(network, x):
    """Values behind each layer and the readout, and potentials in steps before rounding."""
    found = {}
    with torch.no_grad():
        network(x, lambda name, layer, given, out: found.setdefault(name, (given, out)))
    return found


def is_near_a_tie(network, found):
    for name, layer in network.layers.items():
        with torch.no_grad():
            potential = layer.activation(*(signal.value for signal in found[name][0]))
        step = layer.levels.step.detach()
        border = potential / step.view(-1, 1) + layer.levels.shift
        inside = (border > 0.5) & (border < layer.levels.n_steps + 0.5)
        if ((border - border.round()).abs()[inside] < NEAR_TIE).any():
            return True
    return False


@settings(max_examples=60, deadline=None)
@given(networks())
def test_deferred_neurons_fire_the_learned_levels_to_the_spike(case):
    network, x = case
    analog = outputs(network, x)
    assume(not is_near_a_tie(network, analog))
    steps = {name: layer.levels.step.detach() for name, layer in network.layers.items()}
    levels = network[0].levels
    coding = Coding(levels.n_steps, initial_potential=levels.shift, deferred=True)
    settle_levels(network, coding)
    for layer in network.layers.values():
        layer.convert(float(layer.threshold), coding)
        layer.freeze()
    spiking = outputs(network, x)
    for name, step in steps.items():
        wanted = (analog[name][1].value / step.view(-1, 1)).round().int()
        assert torch.equal(spiking[name][1].count, wanted), name
        if len(step) == 1:  # count times threshold
            torch.testing.assert_close(spiking[name][1].value, analog[name][1].value)
    torch.testing.assert_close(
        spiking["readout"][1].value, analog["readout"][1].value, rtol=1e-4, atol=1e-5
    )


@settings(max_examples=20, deadline=None)
@given(networks())
def test_calibration_takes_the_steps_and_leaves_exact_biases(case):
    network, x = case
    analog = outputs(network, x)
    assume(not is_near_a_tie(network, analog))
    levels, layers = network[0].levels, list(network.layers.values())
    coding = Coding(levels.n_steps, initial_potential=levels.shift, deferred=True)
    choices = calibrate(network, [x], coding)
    found = outputs(network, x)["readout"][1].value
    torch.testing.assert_close(found, analog["readout"][1].value, rtol=1e-3, atol=1e-4)
    for layer, choice in zip(layers, choices, strict=True):
        assert choice.upper_bound == pytest.approx(float(layer.threshold) * levels.n_steps)


@settings(max_examples=20, deadline=None)
@given(networks())
def test_settled_networks_round_as_before(case):
    network, x = case
    before = outputs(network, x)
    assume(not is_near_a_tie(network, before))
    levels = network[0].levels
    settle_levels(network, Coding(levels.n_steps, initial_potential=levels.shift))
    assert all(layer.levels is None for layer in network.layers.values())
    after = outputs(network, x)["readout"][1].value
    torch.testing.assert_close(after, before["readout"][1].value, rtol=1e-4, atol=1e-5)


def test_other_numbers_of_steps_keep_the_upper_bound():
    network = layers_in_a_row("none")
    begin_levels(network, torch.randn(8, 5, 12), n_steps=8)
    bounds = [8 * float(layer.levels.step) for layer in network.layers.values()]
    settle_levels(network, Coding(2))
    found = [2 * float(layer.threshold) for layer in network.layers.values()]
    assert found == pytest.approx(bounds)


def test_first_steps_suit_the_activations_and_leave_norms_alone():
    torch.manual_seed(0)
    network, x = layers_in_a_row("residual"), torch.randn(64, 5, 20)
    before = copy.deepcopy(network.state_dict())
    begin_levels(network, x, n_steps=8)
    for name, tensor in before.items():
        assert torch.equal(tensor, network.state_dict()[name]), name
    errors = []
    with torch.no_grad():
        network.train()
        for factor in (0.25, 1.0, 4.0):
            tried = copy.deepcopy(network)
            tried[0].levels.set_step(tried[0].levels.step * factor)
            exact = tried[0].activation(x)
            errors.append(float((tried[0].levels(exact) - exact).square().mean()))
    assert errors[1] < min(errors[0], errors[2])


@pytest.mark.parametrize("make", [lambda: layers_in_a_row("identity"), with_shortcut])
def test_steps_per_channel_need_channels_that_can_be_scaled(make):
    with pytest.raises(SpikeSepError, match=r"steps per channel \(train\.levels\.per\)"):
        add_levels(make(), 8, per="channel")


def test_removed_levels_leave_the_network_analog():
    torch.manual_seed(0)
    network, x = layers_in_a_row("residual").eval(), torch.randn(2, 5, 12)
    wanted = network(x)
    begin_levels(network, x, n_steps=4, kind="lsq")
    assert levels_settings(network) == {"n_steps": 4, "kind": "lsq", "per": "layer", "shift": 0.5}
    assert not torch.equal(network(x), wanted)
    remove_levels(network)
    assert torch.equal(network(x), wanted)
    assert levels_settings(network) == {}


def learned():
    """A torch network with levels in place of ReLU, and its input."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv1d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm1d(6),
        Levels(6),
        nn.MaxPool1d(2),
        nn.Conv1d(6, 6, 3, padding=1),
        Levels(6, "lsq"),
        nn.Conv1d(6, 1, 1),
    )
    x = torch.randn(16, 2, 20)
    network[2].set_step(0.3)
    network[5].set_step(0.08)
    for _ in range(10):
        network.train()(x)
    return network.eval(), x


def test_torch_networks_with_levels_convert_in_one_call_without_error():
    network, x = learned()
    spiking = convert(network, x, 6, deferred=True)
    torch.testing.assert_close(spiking(x), network(x), rtol=1e-4, atol=1e-5)
    assert float(spiking[0].threshold) == pytest.approx(0.3)


def test_fine_tuning_starts_from_the_learned_steps():
    network, x = learned()
    batches = [(x, network(x).detach())] * 2
    spiking = convert(network, batches, 6, loss=nn.functional.mse_loss, deferred=True, max_epochs=0)
    torch.testing.assert_close(spiking(x), network(x), rtol=1e-4, atol=1e-5)


def test_levels_that_do_not_fit_their_layer_are_refused_by_path():
    network, x = learned()
    network[5] = Levels(6, n_channels=3)
    with pytest.raises(NotConvertibleError, match=r"layer '5' \(Levels\): has steps of 3 channels"):
        from_module(network, x)


def test_levels_behind_linear_layers_may_have_a_step_per_channel():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(4, 6), Levels(5, n_channels=6), nn.Linear(6, 2))
    network[1].set_step(torch.rand(6) * 0.1 + 0.05)
    x = torch.randn(32, 4)
    spiking = convert(network, x, 5, deferred=True)
    torch.testing.assert_close(spiking(x), network(x), rtol=1e-4, atol=1e-5)
