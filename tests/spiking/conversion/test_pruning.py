import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.least_squares import RIDGE
from spikesep.spiking.conversion.pruning import ROUNDS, prune
from spikesep.spiking.hardware_limits import strongest
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding


def correlated(*shape):
    """Inputs of which each channel resembles the next."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    return x + x.roll(1, 1)


def trained(layers, readout, x):
    """In inference, with norms that have seen x."""
    network = SpikingNetwork(layers, readout).train()
    for _ in range(20):
        network(x)
    return network.eval()


def convolutions(**second):
    torch.manual_seed(0)
    layers = [
        SpikingLayer(nn.Conv1d(4, 6, 1, bias=False), nn.BatchNorm1d(6)),
        SpikingLayer(
            nn.Conv1d(6, 6, 3, padding=2, dilation=2, **second),
            nn.BatchNorm1d(6),
            residual=not second,
        ),
    ]
    x = correlated(3, 4, 40)
    return trained(layers, Readout(nn.Conv1d(6, 2, 1, bias=False)), x), x


def images():
    torch.manual_seed(0)
    layers = [
        SpikingLayer(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)),
        SpikingLayer(nn.Conv2d(4, 4, (1, 3), padding=(0, 1), groups=2), before=nn.AvgPool2d(2)),
        SpikingLayer(nn.Linear(4 * 4 * 4, 5), before=nn.Flatten()),
    ]
    x = correlated(70, 2, 8, 8)
    return trained(layers, Readout(nn.Linear(5, 3)), x), x


def received(signal, at):
    """Of [channels, frames], what stands at some frames, zeros beyond the ends; in the order of a
    kernel's weights.
    """
    frames = [signal[:, t] if 0 <= t < signal.shape[1] else np.zeros(len(signal)) for t in at]
    return np.stack(frames, 1).ravel()


def vectors():
    torch.manual_seed(0)
    layers = [SpikingLayer(nn.Linear(5, 6)), SpikingLayer(nn.Linear(6, 6))]
    return SpikingNetwork(layers, Readout(nn.Linear(6, 2))).eval(), correlated(40, 3, 5)


def folded(network):
    whole = copy.deepcopy(network)
    for module in (*whole.layers.values(), whole.readout):
        module.fold()
    return whole


@pytest.mark.parametrize("made", [convolutions, lambda: convolutions(groups=2), images, vectors])
def test_with_all_inputs_nothing_changes(made):
    network, x = made()
    expected = network(x).detach()
    kept = prune(network, x.split(2), 1000)
    assert all(choice.all() for choice in kept)
    torch.testing.assert_close(network(x).detach(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("rounds", [False, True])
def test_weights_are_those_of_a_slow_least_squares(rounds):
    network, x = convolutions()
    meant = folded(network)
    if rounds:
        for layer in network.layers.values():
            layer.discretize(0.2, Coding(6))
    kept = prune(network, [x[:2], x[2:]], 5)
    now, then = x.double().numpy(), x.double().numpy()
    for index, (choice, layer) in enumerate(zip(kept, meant.layers.values(), strict=False)):
        weight, bias = (
            p.detach().double().numpy() for p in (layer.synapse.weight, layer.synapse.bias)
        )
        dilation, size = layer.synapse.dilation[0], weight.shape[2]
        rows, wanted = [], []
        for b in range(len(now)):
            for t in range(now.shape[2]):
                at = [t + dilation * (k - size // 2) for k in range(size)]
                rows.append([*received(now[b], at), 1.0])
                wanted.append(weight.reshape(len(weight), -1) @ received(then[b], at) + bias)
        rows, wanted = np.array(rows), np.array(wanted)
        pull = np.sqrt(RIDGE * np.square(rows[:, :-1]).mean() * len(rows))
        old = np.concatenate([weight.reshape(len(weight), -1), bias[:, None]], 1)
        everywhere = np.concatenate([rows, pull * np.eye(rows.shape[1])])
        n = rows.shape[1] - 1
        found = network[index].synapse
        for neuron in range(len(weight)):
            target = np.concatenate([wanted[:, neuron], pull * old[neuron]])
            chosen, expected = np.arange(n), np.linalg.lstsq(everywhere, target, rcond=None)[0]
            for rounds_left in range(ROUNDS, 0, -1):
                used = everywhere[:, [*chosen, n]]
                missed = np.square(expected[chosen]) / np.diag(np.linalg.inv(used.T @ used))[:-1]
                n_kept = len(chosen) - math.ceil((len(chosen) - 5) / rounds_left)
                chosen = np.sort(chosen[np.argsort(-missed)[:n_kept]])
                expected = np.zeros(n + 1)
                expected[[*chosen, n]] = np.linalg.lstsq(
                    everywhere[:, [*chosen, n]], target, rcond=None
                )[0]
            assert choice[neuron].flatten().nonzero().flatten().tolist() == chosen.tolist()
            given = (
                torch.cat([found.weight[neuron].flatten(), found.bias[neuron, None]])
                .detach()
                .numpy()
            )
            np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-4)
        potential = torch.relu(layer.synapse(torch.from_numpy(then).float()))
        then = potential.detach().double().numpy()
        now = torch.relu(found(torch.from_numpy(now).float())).detach()
        now = ((now / 0.2 + 0.5).floor().clamp(0, 6) * 0.2 if rounds else now).double().numpy()


@given(st.integers(1, 20))
@settings(max_examples=10, deadline=None)
def test_each_neuron_keeps_that_many_inputs(fan_in):
    network, x = convolutions()
    for choice, module in zip(
        prune(network, [x], fan_in), (*network.layers.values(), network.readout), strict=True
    ):
        assert (choice.flatten(1).sum(1) == min(fan_in, choice[0].numel())).all()
        assert (module.synapse.weight[~choice] == 0).all()


def test_it_comes_nearer_than_the_strongest_weights_do():
    network, x = convolutions()
    expected = network(x).detach()
    for fan_in in (4, 8, 12):
        fitted, weakened = folded(network), folded(network)
        prune(fitted, [x], fan_in)
        for module in (*weakened.layers.values(), weakened.readout):
            module.synapse.weight.data *= strongest(module.synapse.weight, fan_in)
        errors = [
            float((found(x).detach() - expected).square().mean()) for found in (fitted, weakened)
        ]
        assert errors[0] < errors[1]


def test_pooling_counts_in_the_fan_in():
    network, x = images()
    kept = prune(network, [x], 20)
    assert [int(choice[0].sum()) for choice in kept] == [18, 5, 20, 5]
    with pytest.raises(SpikeSepError, match="fan_in"):
        prune(network, [x], 3)


def test_fewer_positions_than_inputs_are_refused():
    network, x = images()
    with pytest.raises(
        SpikeSepError,
        match=r"layer 2: 9 positions are too few to fit 64 inputs.*calibration_examples",
    ):
        prune(network, [x[:9]], 20)


def test_what_is_converted_or_pads_otherwise_is_refused():
    network, x = convolutions(padding_mode="circular")
    with pytest.raises(SpikeSepError, match=r"layer 1: padding_mode='circular'.*magnitude"):
        prune(network, [x], 5)
    network, x = convolutions()
    network[0].convert(0.1, Coding(4))
    with pytest.raises(ValueError, match="not converted yet"):
        prune(network, [x], 5)
