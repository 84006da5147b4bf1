"""What a Sequential is made of: taken as it computes, or refused by name."""

import pytest
import torch
from helpers.stacks import signal_before
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from spikesep.spiking.from_torch.tracing import from_module
from spikesep.spiking.signal import Coding

S, C1, C2, Linear, ReLU = nn.Sequential, nn.Conv1d, nn.Conv2d, nn.Linear, nn.ReLU


def settle(network, x):
    """Give norms their statistics."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(x)
    return network.eval()


def conv(*behind):
    return [C1(4, 4, 3, padding=1), *behind]


shared = ReLU()
TAKEN = {
    "image": (
        lambda: S(
            C2(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            ReLU(),
            nn.AvgPool2d(2),
            C2(4, 4, 3, padding=1),
            ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            Linear(64, 10),
        ),
        (1, 8, 8),
        ["0", "4"],
    ),
    "nested": (
        lambda: S(S(*conv(ReLU())), S(S(*conv(nn.BatchNorm1d(4))), ReLU()), S(C1(4, 2, 1))),
        (4, 20),
        ["0/0", "1/0/0"],
    ),
    "a norm before a synapse": (
        lambda: S(*conv(ReLU(), nn.BatchNorm1d(4)), C1(4, 4, 3, groups=2), ReLU(), C1(4, 2, 1)),
        (4, 20),
        ["0", "3"],
    ),
    "a norm behind the readout": (
        lambda: S(*conv(ReLU()), C1(4, 2, 1), nn.BatchNorm1d(2)),
        (4, 20),
        ["0"],
    ),
    "a map behind the readout": (
        lambda: S(*conv(ReLU()), C1(4, 2, 1), nn.AvgPool1d(2), nn.Sigmoid()),
        (4, 20),
        ["0"],
    ),
    "a forward of its own": (lambda: S(*conv(Hidden(), ReLU()), C1(4, 2, 1)), (4, 20), ["0"]),
    "identity between": (
        lambda: S(*conv(nn.Identity(), ReLU()), nn.Identity(), *conv(nn.Identity())),
        (4, 20),
        ["0"],
    ),
    "dropout anywhere": (
        lambda: S(
            nn.Dropout(),
            *conv(nn.Dropout1d(), nn.BatchNorm1d(4), nn.AlphaDropout(), ReLU()),
            nn.Dropout2d(),
            C1(4, 2, 1),
            nn.Dropout(),
        ),
        (4, 20),
        ["1"],
    ),
    "a module without weights in two places": (
        lambda: S(*conv(shared), nn.AvgPool1d(2), *conv(shared), C1(4, 2, 1)),
        (4, 20),
        ["0", "3"],
    ),
    "weight_norm (old)": (lambda: S(weight_norm(conv()[0]), ReLU(), C1(4, 2, 1)), (4, 20), ["0"]),
    "weight_norm": (
        lambda: S(parametrizations.weight_norm(conv()[0]), ReLU(), C1(4, 2, 1)),
        (4, 20),
        ["0"],
    ),
    "spectral_norm (old)": (
        lambda: S(spectral_norm(Linear(4, 6)), ReLU(), Linear(6, 2)),
        (4,),
        ["0"],
    ),
    "spectral_norm": (
        lambda: S(parametrizations.spectral_norm(Linear(4, 6)), ReLU(), Linear(6, 2)),
        (4,),
        ["0"],
    ),
    "pruned": (
        lambda: S(*pruned(C1(4, 4, 3), nn.BatchNorm1d(4)), ReLU(), *pruned(C1(4, 2, 1))),
        (4, 20),
        ["0"],
    ),
}


def pruned(*modules):
    for module in modules:
        prune.random_unstructured(module, "weight", 0.5)
        prune.random_unstructured(module, "bias", 0.5)
    return modules


@pytest.mark.parametrize(("make", "shape", "names"), TAKEN.values(), ids=TAKEN)
@pytest.mark.filterwarnings("ignore")
def test_what_is_taken_computes_the_same_analog_and_spiking(make, shape, names):
    torch.manual_seed(0)
    x = torch.randn(8, *shape)
    plain = settle(make(), x)
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    network = from_module(plain)
    assert network.names == names
    with torch.no_grad():
        wanted = plain(x)
        torch.testing.assert_close(network(x), wanted)
        for k, layer in enumerate(network.layers.values()):
            bound = float(network[k](signal_before(network, x, k)).value.max())
            layer.convert(bound / 1024, Coding(1024))
            layer.freeze()
        assert float((network.eval()(x) - wanted).norm()) < 0.03 * float(wanted.norm())
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    assert all(module.training is False for module in plain.modules())


class Named(S):
    """With nothing of its own but its layers."""

    def __init__(self):
        super().__init__(*conv(ReLU()), C1(4, 2, 1))


def test_a_sequential_of_a_class_of_its_own_is_taken():
    assert from_module(Named()).names == ["0"]


def test_a_layer_may_have_the_name_of_a_method_of_dictionaries():
    named = S()
    for name, module in zip(("keys", "relu", "out"), [*conv(ReLU()), C1(4, 2, 1)], strict=True):
        named.add_module(name, module)
    assert from_module(named).names == ["keys_"]


def test_weights_are_taken_not_copied_but_for_those_that_are_computed():
    plain = S(*conv(ReLU()), parametrizations.weight_norm(C1(4, 2, 1)))
    network = from_module(plain)
    assert network[0].synapse is plain[0]
    assert network.readout.synapse.weight.requires_grad
    assert parametrize.is_parametrized(plain[2])
    assert "readout: Conv1d 4->2 k1 d1" in network.plan()


def test_dropout_before_a_relu_goes_on_behind_it():
    plain = S(*conv(nn.Dropout(), ReLU()), C1(4, 2, 1)).train()
    network = from_module(plain)
    assert isinstance(network.readout.before[0], nn.Dropout)
    assert network.readout.before[0].training


class Hidden(nn.Module):
    def forward(self, x):
        return F.relu(x)
