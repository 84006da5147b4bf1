import pytest
import torch
from helpers.stacks import signal_before
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking.from_torch.tracing import from_module
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal


def image_network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(64, 10),
    ).eval()


def test_a_converted_network_with_pooling_stays_near_the_analog_one():
    torch.manual_seed(0)
    network = from_module(image_network()).eval()
    x = torch.rand(3, 1, 8, 8)
    analog = network(x)
    for k in range(len(network)):
        bound = float(network[k](signal_before(network, x, k)).value.detach().max())
        network[k].convert(bound / 256, Coding(256))
    assert (network(x) - analog).norm() < 0.02 * analog.norm()


def test_the_readout_is_the_aggregate_potential_of_the_last_spikes():
    """Eq. 9, in activation units: sum over steps of W (theta s[t]) + b / N_s."""
    torch.manual_seed(1)
    network = SpikingNetwork([SpikingLayer(nn.Linear(5, 6))], Readout(nn.Linear(6, 3)))
    network[0].convert(0.1, Coding(8))
    x = torch.rand(4, 5)
    spikes = signal_before(network, x, 1).trains[0].spikes
    w, b = network.readout.synapse.weight, network.readout.synapse.bias
    potential = sum((0.1 * s.float()) @ w.T + b / 8 for s in spikes)
    torch.testing.assert_close(network(x), potential)


def test_the_plan_names_every_layer_and_what_is_folded():
    layers = {
        name: SpikingLayer(
            nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), identity=name == "second"
        )
        for name in ("first", "second")
    }
    plan = SpikingNetwork(layers, Readout(nn.Conv1d(4, 2, 1))).plan().splitlines()
    assert plan[0] == "first: Conv1d 4->4 k3 d1 + norm folded -> integrate-and-fire"
    assert plan[1].endswith("beside an identity path")
    assert plan[2].startswith("readout: Conv1d 4->2")


def test_the_plan_counts_all_channels_of_grouped_convolutions():
    network = SpikingNetwork([SpikingLayer(nn.Conv1d(6, 9, 1, groups=3))], Readout(nn.Linear(4, 2)))
    assert network.plan().splitlines() == [
        "0: Conv1d 6->9 k1 d1 g3 -> integrate-and-fire",
        "readout: Linear 4->2 -> aggregate membrane potential (analog)",
    ]


def test_a_first_layer_that_hands_on_its_analog_input_is_refused():
    with pytest.raises(ValueError, match="first layer cannot have an identity path"):
        SpikingNetwork([SpikingLayer(nn.Linear(3, 3), identity=True)], Readout(nn.Linear(3, 1)))


def test_a_readout_alone_is_no_network():
    with pytest.raises(ValueError, match="at least one layer"):
        SpikingNetwork([], Readout(nn.Linear(3, 1)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_what_is_no_number_does_not_become_spikes(bad, is_frozen):
    network = SpikingNetwork([SpikingLayer(nn.Linear(3, 3))], Readout(nn.Linear(3, 1))).eval()
    network[0].convert(0.1, Coding(4))
    if is_frozen:
        network[0].freeze()
    with torch.no_grad(), pytest.raises(SpikeSepError, match="analog input contains NaN or Inf"):
        network(torch.tensor([[0.0, bad, 1.0]]))


def test_spikes_of_another_window_are_refused():
    layer = SpikingLayer(nn.Linear(5, 5))
    layer.convert(0.1, Coding(16))
    layer.freeze()
    with pytest.raises(ValueError, match=r"\[8\] steps reach a layer of 16"):
        layer(Signal.from_spikes(torch.rand(8, 2, 5) < 0.4, torch.tensor(0.1)))


def test_an_identity_path_hands_on_the_spikes_of_all_layers_before():
    torch.manual_seed(2)
    layers = [SpikingLayer(nn.Linear(5, 5), identity=k > 0) for k in range(3)]
    network = SpikingNetwork(layers, Readout(nn.Linear(5, 3)))
    x = torch.rand(4, 5)
    with torch.no_grad():
        outputs = [layers[0].activation(x)]
        for layer in layers[1:]:
            outputs.append(layer.activation(sum(outputs)))
        torch.testing.assert_close(signal_before(network, x, 3).value, sum(outputs))
        for layer in layers:
            layer.convert(0.1, Coding(8))
        signal = signal_before(network, x, 3)
    assert len(signal.trains) == 3
    torch.testing.assert_close(signal.drive().sum(0), signal.value)


def test_a_sum_that_goes_on_from_a_shorter_one_is_the_same_to_the_bit():
    parts = [
        Signal.from_spikes(torch.rand(8, 2, 5) < 0.4, torch.tensor(0.1 * (k + 1))) for k in range(4)
    ]
    step_by_step = parts[0]
    for part in parts[1:]:
        assert step_by_step.value is not None
        step_by_step = step_by_step + part
    at_once = Signal(trains=step_by_step.trains)
    assert torch.equal(at_once.value, step_by_step.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine")
def test_an_accelerator_fires_the_spikes_of_the_cpu():
    torch.manual_seed(3)
    layers = [SpikingLayer(nn.Conv1d(16, 16, 3, padding=1), identity=k > 0) for k in range(3)]
    network = SpikingNetwork(layers, Readout(nn.Conv1d(16, 4, 1)))
    for layer in layers:
        layer.convert(0.1, Coding(8))
        layer.freeze()
    x = torch.rand(2, 16, 200)
    here = signal_before(network, x, 3)
    there = signal_before(network.cuda(), x.cuda(), 3)
    differing = (here.count != there.count.cpu()).float().mean()
    assert (
        differing < 0.005
    )  # products are summed in another order: a neuron on its threshold may tip
