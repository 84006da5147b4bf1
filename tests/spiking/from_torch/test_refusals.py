"""What cannot be converted is refused by name, with the remedy, before anything runs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spikesep.spiking.from_torch.tracing import from_module
from spikesep.spiking.network import NotConvertibleError

S, C1, C2, Linear, ReLU = nn.Sequential, nn.Conv1d, nn.Conv2d, nn.Linear, nn.ReLU


def the_refusal(network, *example):
    with pytest.raises(NotConvertibleError) as caught:
        from_module(network, *example)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def conv(*behind):
    return [C1(4, 4, 3, padding=1), *behind]


def settled_norm():
    norm = nn.BatchNorm1d(4)
    nn.init.uniform_(norm.running_mean, 0.5, 1)
    return norm


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.relu, self.second = Linear(8, 8), ReLU(), Linear(8, 8)

    def forward(self, x):
        return self.second(torch.sigmoid(self.relu(self.first(x)))) + x


class Scaled(S):
    def forward(self, x):
        return super().forward(2 * x)


class Causal(C1):
    def forward(self, x):
        return super().forward(F.pad(x, (2, 0)))


class Standardized(C1):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Shifted(ReLU):
    def forward(self, x):
        return super().forward(x - 1)


class Called(nn.Flatten):
    def __call__(self, x):
        return -super().__call__(x)


def patched(module):
    module.forward = lambda x: x
    return module


def hooked(module, register="register_forward_hook"):
    getattr(module, register)(lambda *given: None)
    return module


BETWEEN = {  # conv, relu, this, conv
    "MaxPool3d": (nn.MaxPool3d(2), "networks of one or two dimensions"),
    "MaxPool1d": (nn.MaxPool1d(2, return_indices=True), "set return_indices=False"),
    "AdaptiveAvgPool1d": (nn.AdaptiveAvgPool1d(1), "give an example: from_module"),
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d(1), "give an example: from_module"),
    "PReLU": (nn.PReLU(), "take ReLU"),
    "ReLU6": (nn.ReLU6(), "a ReLU must follow a Linear or Conv layer"),
    "GroupNorm": (nn.GroupNorm(1, 4), "batch norm"),
    "SyncBatchNorm": (nn.SyncBatchNorm(4), "take BatchNorm1d or BatchNorm2d with its state_dict"),
    "Sigmoid": (nn.Sigmoid(), "may follow the last Linear or Conv layer"),
    "Upsample": (nn.Upsample(scale_factor=2, mode="linear"), "or a transposed convolution"),
    "Fold": (nn.Fold(4, 2), "has no spiking counterpart; a network can hold Linear, Conv1d"),
    "LSTM": (nn.LSTM(4, 4), "a recurrent layer has no spiking counterpart"),
    "DataParallel": (nn.DataParallel(ReLU()), "give the network inside it, its .module"),
    "LazyConv1d": (nn.LazyConv1d(4, 1), "run the network once"),
    "Scaled": (Scaled(*conv(ReLU())), "its forward.. calls mul: .*fold constant factors"),
    "Causal": (Causal(4, 4, 3), "its own forward.* take Conv1d itself"),
    "Standardized": (Standardized(4, 4, 1), "its own forward.* take Conv1d itself"),
    "Called": (Called(), "its own forward.* take Flatten itself"),
    "patched": (patched(nn.Identity()), "its own forward.* take Identity itself"),
    "hooked": (hooked(nn.Identity()), "forward hooks, .*; remove them"),
    "hooked container": (hooked(S(nn.Identity())), "forward hooks, .*; remove them"),
    "hooked before": (hooked(C1(4, 4, 1), "register_forward_pre_hook"), "forward hooks"),
}


@pytest.mark.parametrize(("culprit", "remedy"), BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("path", ["culprit", "block.culprit"])
def test_what_cannot_be_converted_is_named_by_its_path_with_its_remedy(culprit, remedy, path):
    block = S()
    block.add_module("culprit", culprit)
    network = S()
    network.add_module("conv", C1(4, 4, 3))
    network.add_module("relu", ReLU())
    if path == "culprit":
        network.add_module("culprit", culprit)
    else:
        network.add_module("block", block)
    network.add_module("out", C1(4, 2, 1))
    with pytest.raises(NotConvertibleError, match=f"'{path}' .*{remedy}"):
        from_module(network)


REFUSED = {
    "no Sequential": (
        Residual,
        "Residual: its forward() calls sigmoid: take ReLU inside the network",
    ),
    "Sequential with a forward": (
        lambda: Scaled(*conv(ReLU()), C1(4, 2, 1)),
        "Scaled: its forward() calls mul",
    ),
    "hooked Sequential": (lambda: hooked(S(*conv(ReLU()), C1(4, 2, 1))), "has forward hooks"),
    "DataParallel": (lambda: nn.DataParallel(S(*conv(ReLU()), C1(4, 2, 1))), "its .module"),
    "compiled": (lambda: torch.compile(S(*conv(ReLU()), C1(4, 2, 1))), "its ._orig_mod"),
    "a list": (lambda: [*conv(ReLU()), C1(4, 2, 1)], "list: give the modules in one nn.Sequential"),
    "ModuleList": (
        lambda: nn.ModuleList(conv()),
        "ModuleList: give the modules in one nn.Sequential",
    ),
    "a synapse": (lambda: Linear(3, 3), "Linear: is a single layer"),
    "a ReLU with a forward": (lambda: S(*conv(Shifted()), C1(4, 2, 1)), "'1' (Shifted): its own"),
    "Flatten(1, 2) before a convolution": (
        lambda: S(C2(1, 4, 3, padding=1), ReLU(), nn.Flatten(1, 2), C1(40, 8, 3)),
        "'3' (Conv1d): Flatten before Conv1d",
    ),
    "Flatten(2) before a convolution": (
        lambda: S(C2(1, 4, 3), ReLU(), nn.Flatten(2), C1(4, 8, 3)),
        "'3' (Conv1d): Flatten before Conv1d",
    ),
    "Flatten(2) before Linear": (
        lambda: S(C2(1, 4, 3), ReLU(), nn.Flatten(2), Linear(4, 8)),
        "flattens only some dimensions",
    ),
    "a readout alone": (lambda: S(Linear(8, 6)), "has only a readout"),
    "no layer before the readout": (lambda: S(Linear(2, 2), ReLU()), "has only a readout"),
    "a norm before padding": (
        lambda: S(*conv(ReLU()), settled_norm(), C1(4, 2, 3, padding=1)),
        "'2' (BatchNorm1d): stands before '3', which pads with zeros",
    ),
    "pooling before a ReLU": (
        lambda: S(*conv(nn.AvgPool1d(2), ReLU()), C1(4, 2, 1)),
        "move it behind the ReLU",
    ),
    "pooling before a norm": (
        lambda: S(*conv(nn.AvgPool1d(2), nn.BatchNorm1d(4), ReLU()), C1(4, 2, 1)),
        "right behind",
    ),
    "two synapses in a row": (
        lambda: S(Linear(2, 2), S(Linear(2, 2))),
        "'1.0' (Linear): follows synapse '0'",
    ),
    "weights used twice": (lambda: S(*[Linear(2, 2), ReLU()] * 2, Linear(2, 2)), "used twice"),
    "a norm without statistics": (
        lambda: S(*conv(nn.BatchNorm1d(4, track_running_stats=False), ReLU()), C1(4, 2, 1)),
        "'0' (Conv1d): BatchNorm1d keeps no running statistics",
    ),
    "a norm of another size": (
        lambda: S(Linear(8, 6), nn.BatchNorm1d(5), ReLU(), Linear(6, 2)),
        "is not over the 6 channels",
    ),
    "a norm of another shape": (
        lambda: S(C2(1, 4, 3), nn.BatchNorm1d(4), ReLU(), C2(4, 2, 1)),
        "take BatchNorm2d",
    ),
    "float64": (
        lambda: S(Linear(8, 8), ReLU(), Linear(8, 3)).double(),
        "are float64; call .float()",
    ),
    "float16": (lambda: S(Linear(8, 8), ReLU(), Linear(8, 3)).half(), "are float16; call .float()"),
    "sizes that do not fit": (
        lambda: S(Linear(3, 4), ReLU(), Linear(5, 2)),
        "Linear of 5 inputs receives 4",
    ),
    "channels that do not fit": (
        lambda: S(C1(3, 4, 1), ReLU(), C1(5, 2, 1)),
        "Conv1d of 5 channels receives",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_stack_of_layers_is_refused_before_anything_runs(make, message):
    assert message in the_refusal(make())


def test_a_network_that_computes_something_else_is_found_by_running_it(monkeypatch):
    """Whatever it is that no look at its modules shows."""
    network = S(*conv(ReLU()), C1(4, 2, 1))
    monkeypatch.setattr(ReLU, "forward", lambda self, x: F.relu(x) + 1)
    assert "computes something else than what tracing shows" in the_refusal(network)
