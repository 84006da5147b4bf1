import copy

import numpy as np
import pytest
import torch
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.pruning import prune
from spikesep.spiking.conversion.spike_budget import MULTIPLES, allocate, match
from spikesep.spiking.cost import SynopsEstimate
from spikesep.spiking.hardware_limits import strongest
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding


def discrete(layers, readout, threshold=0.1, n_steps=8):
    network = SpikingNetwork(layers, readout).eval()
    for layer in layers:
        layer.fold()
        layer.synapse.bias.data = layer.synapse.bias.abs() + 0.1  # none is silent
        layer.discretize(threshold, Coding(n_steps))
    readout.fold()
    return network


def sequence(**options):
    """Channels of very different use."""
    torch.manual_seed(0)
    layers = [
        SpikingLayer(nn.Conv1d(3, 6, 1)),
        SpikingLayer(nn.Conv1d(6, 6, 3, padding=1), **options),
        SpikingLayer(nn.Conv1d(6, 8, 3, padding=1, groups=2)),
    ]
    for layer in layers:
        layer.synapse.weight.data *= torch.logspace(-0.5, 0.5, len(layer.synapse.weight))[
            :, None, None
        ]
    return discrete(layers, Readout(nn.Conv1d(8, 2, 1))), torch.rand(6, 3, 30)


def images():
    torch.manual_seed(0)
    layers = [
        SpikingLayer(nn.Conv2d(2, 4, 3, padding=1)),
        SpikingLayer(nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2), before=nn.AvgPool2d(2)),
        SpikingLayer(nn.Linear(4 * 2 * 2, 5), before=nn.Flatten()),
        SpikingLayer(nn.Linear(5, 5)),
    ]
    return discrete(layers, Readout(nn.Linear(5, 3))), torch.rand(30, 2, 8, 8)


def examples(x):
    return [(part, lambda potential: potential) for part in x.split(4)]


def synops(network, x):
    estimate = SynopsEstimate()
    with torch.no_grad():
        network(x, estimate)
    return float(estimate.ratio)


def analog(network):
    network = copy.deepcopy(network)
    for layer in network.layers.values():
        layer.mode = "analog"
    return network


def squared_error(network, x, expected):
    """Relative, of each example's channels."""
    with torch.no_grad():
        return float(((network(x) - expected).norm(dim=-1) / expected.norm(dim=-1)).square().mean())


@pytest.mark.parametrize("made", [sequence, images])
@pytest.mark.parametrize("share", [0.6, 0.8, 1.0, 1.3])
def test_what_is_meant_stays_and_what_is_spent_keeps_to_the_budget(made, share):
    network, x = made()
    meant, budget = analog(network)(x).detach(), share * synops(network, x)
    allocate(network, examples(x), budget)
    torch.testing.assert_close(analog(network)(x).detach(), meant, rtol=1e-4, atol=1e-5)
    spent = synops(network, x)
    assert spent < 1.03 * budget
    assert (
        spent > 0.9 * budget or share > 0.8
    )  # finer thresholds than make a difference are not taken


def test_for_as_many_spikes_predictions_change_less():
    network, x = sequence()
    expected, spent = analog(network)(x).detach(), synops(network, x)
    before = squared_error(network, x, expected)
    allocate(network, examples(x), spent)
    assert synops(network, x) <= 1.05 * spent
    assert squared_error(network, x, expected) < 0.8 * before


def test_the_first_layer_alone_is_allotted_as_trying_all_of_it_would():
    """One layer before a readout: errors and spikes of each channel by plain loops; the best of all
    choices.
    """
    torch.manual_seed(1)
    network = discrete([SpikingLayer(nn.Linear(3, 2))], Readout(nn.Linear(2, 1)), 0.2, 4)
    network[0].synapse.bias.data.fill_(0.3)
    x = torch.rand(40, 3)
    weight, bias, out = (
        p.detach().double().numpy().copy()
        for p in (*network[0].synapse.parameters(), network.readout.synapse.weight)
    )
    budget = 0.7 * synops(network, x)
    exact = np.maximum(x.double().numpy() @ weight.T + bias, 0)
    now = np.clip(np.floor(exact / 0.2 + 0.5), 0, 4) * 0.2
    signs = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)).double().numpy()
    unit = np.abs((now - exact) @ out.T)
    error, spikes = np.zeros((2, len(MULTIPLES), 2))
    for k, multiple in enumerate(MULTIPLES):
        count = np.clip(np.floor(exact / (0.2 * multiple) + 0.5), 0, 4)
        error[k] = (np.square((count * 0.2 * multiple - exact) * out * signs / unit)).sum(0)
        spikes[k] = count.sum(0) / (40 * (3 * 2 + 2))
    total = error[:, None, 0] + error[None, :, 1]
    spent = spikes[:, None, 0] + spikes[None, :, 1]
    allocate(network, [(x, lambda potential: potential)], budget)
    chosen = (torch.from_numpy(bias) / network[0].synapse.bias.detach().double()).numpy()
    a, b = (int(np.abs(np.log(np.array(MULTIPLES) / multiple)).argmin()) for multiple in chosen)
    assert spent[a, b] <= budget
    # Of the choices that some price leads to, the best; no choice that costs as little has less
    # error.
    assert total[a, b] == pytest.approx(total[spent <= spent[a, b] + 1e-12].min(), rel=1e-4)


def test_a_larger_budget_has_a_lower_price():
    network, x = sequence()
    spent = synops(network, x)
    prices = [
        allocate(copy.deepcopy(network), examples(x), share * spent)[0].price
        for share in np.linspace(0.7, 1.3, 7)
    ]
    assert prices == sorted(prices, reverse=True)
    assert prices[0] > 2 * prices[-1] >= 0


def test_connections_that_are_gone_cost_nothing():
    network, x = sequence()
    for module in network.parts:
        module.prune(strongest(module.synapse.weight, 6), 6)
    budget = 0.6 * synops(network, x)
    allocate(network, examples(x), budget)
    assert synops(network, x) == pytest.approx(budget, rel=0.1)


def test_connections_go_that_are_not_worth_their_spikes():
    network, x = sequence()
    expected = analog(network)(x).detach()
    spent = synops(network, x)
    worth = allocate(network, examples(x), spent)
    by_worth, by_number = copy.deepcopy(network), network
    with torch.no_grad():
        kept = prune(by_worth, [x], 1000, worth)
    for module, choice in zip(by_worth.parts, kept, strict=True):
        module.prune(choice, 1000)
    assert kept[0].all()  # the first layer's inputs are no spikes
    left, fan_in = synops(by_worth, x), 18
    assert left < 0.95 * spent
    while synops(by_number, x) > left:
        fan_in -= 1
        fewer = copy.deepcopy(network)
        for module, choice in zip(fewer.parts, prune(fewer, [x], fan_in), strict=True):
            module.prune(choice, fan_in)
        by_number = fewer
    assert squared_error(by_worth, x, expected) < squared_error(by_number, x, expected)


@pytest.mark.parametrize("made", [sequence, images])
@pytest.mark.parametrize("moved", [0.0, 0.03])
def test_what_was_allotted_otherwise_is_brought_to_the_same_scales(made, moved):
    network, x = made()
    model, given = copy.deepcopy(network), examples(x)
    allocate(model, given, 0.7 * synops(network, x))
    with torch.no_grad():  # as learning does
        for part in network.parts:
            part.synapse.weight *= 1 + moved * (2 * torch.rand(part.synapse.weight.shape) - 1)
        expected = analog(network)(x)
        before = [part.synapse.weight.clone() for part in network.parts]
        match(network, model)
        torch.testing.assert_close(analog(network)(x), expected, rtol=1e-4, atol=1e-5)
    for part, wanted, old in zip(network.parts, model.parts, before, strict=True):
        torch.testing.assert_close(
            part.synapse.weight, wanted.synapse.weight, rtol=moved + 1e-5, atol=1e-7
        )
        assert not torch.equal(part.synapse.weight, old)


def test_a_neuron_without_weights_is_left_as_it_is():
    network, _ = sequence()
    for part in network.parts:
        part.synapse.weight.data[0] = 0.0
    model = copy.deepcopy(network)
    match(network, model)
    for part, same in zip(network.parts, model.parts, strict=True):
        assert torch.equal(part.synapse.weight, same.synapse.weight)


def test_a_budget_out_of_reach_is_named():
    network, x = sequence()
    with pytest.raises(SpikeSepError, match=r"budget.synops: .* is about the least"):
        allocate(network, examples(x), 0.001)


def test_layers_that_share_channels_are_refused_by_name():
    network, x = sequence(identity=True)
    with pytest.raises(SpikeSepError, match=r"layer 1: .*identity"):
        allocate(network, examples(x), 1.0)


def test_layers_must_round():
    network, x = sequence()
    with pytest.raises(ValueError, match="must round"):
        allocate(analog(network), examples(x), 1.0)
