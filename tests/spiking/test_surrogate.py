import pytest
import torch
from helpers.regression import RegressionTrainer
from torch import nn

from spikesep.spiking.conversion.all_at_once import AllAtOnce
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal
from spikesep.spiking.surrogate import graded_spikes


def test_the_gradient_is_that_of_back_propagation_through_time_by_hand():
    """Two steps, one neuron: dS/dz from the recursion V[t] = V[t-1] + z[t] - theta s[t], ds/dV the
    triangle.
    """
    z = torch.tensor([0.8, 0.3], dtype=torch.float64, requires_grad=True)
    theta = 1.0
    graded_spikes(z[:, None], theta, 0.0).sum().backward()
    v1, v2 = 0.8, 1.1  # no spike in the first step
    slope = [(1 - abs(v / theta - 1)) / theta for v in (v1, v2)]
    carry = 1 - theta * slope[0]  # how V after step 1 moves with V in it
    assert z.grad.tolist() == pytest.approx([slope[0] + slope[1] * carry, slope[1]])


def network(n_layers=3):
    torch.manual_seed(0)
    layers = [
        SpikingLayer(nn.Linear(6, 6), nn.BatchNorm1d(6), identity=k > 0) for k in range(n_layers)
    ]
    net = SpikingNetwork(layers, Readout(nn.Linear(6, 2)))
    for _ in range(20):
        net(torch.rand(64, 6))
    return net


@pytest.mark.parametrize("gradient", ["relu", "clipped", "surrogate"])
def test_in_training_a_norm_that_is_kept_gives_twin_and_neurons_the_moments_of_the_batch(gradient):
    layer = network()[0]
    layer.convert(0.2, Coding(8), gradient, keep_norm=True)
    layer.train()
    x = torch.rand(40, 6)
    out = layer(Signal(x)).value
    potential = layer.synapse(x).double()
    normed = (potential - potential.mean(0)) / (
        potential.var(0, correction=0) + layer.norm.eps
    ).sqrt()
    expected = (normed * layer.norm.weight + layer.norm.bias).relu() / 0.2
    assert torch.equal(out.div(0.2).round(), (expected + 0.5).floor().clamp(max=8).float())
    assert out.requires_grad


@pytest.mark.parametrize("gradient", ["relu", "clipped", "surrogate"])
def test_all_layers_at_once_learn_and_end_folded_and_frozen(gradient):
    net, losses = network(), []
    trainer = RegressionTrainer(net, steps=10)
    learning = AllAtOnce(
        net,
        net,
        trainer,
        Coding(8),
        discretize=False,
        gradient=gradient,
        patience=30,
        max_epochs=30,
        on_epoch=lambda progress: losses.append(progress.valid_loss),
    )
    learning.run()
    assert min(losses) < 0.5 * losses[0]
    assert all(layer.mode == "spiking" and layer.norm is None for layer in net.layers.values())
    assert trainer.validate(0) == pytest.approx(min(losses), rel=1e-3)


def test_a_conversion_by_rates_nears_the_analog_network_as_the_window_grows():
    x = torch.rand(200, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = network().eval()(x)
    errors = []
    for n_steps in (8, 64, 512):
        net = network()
        coding = Coding(n_steps, initial_potential=0.0)
        AllAtOnce(
            net,
            net,
            RegressionTrainer(net, steps=10),
            coding,
            percentile=100.0,
            discretize=False,
            max_epochs=0,
        ).run()
        with torch.no_grad():
            errors.append(float((net.eval()(x) - expected).abs().mean()))
    assert errors[1] < 0.3 * errors[0]
    assert errors[2] < 0.3 * errors[1]
