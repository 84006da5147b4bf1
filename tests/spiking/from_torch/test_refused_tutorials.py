"""Networks of tutorials that have no spiking counterpart are refused by name."""

import pytest
import torch
from helpers.tutorials import IMAGE, Net, conv
from torch import nn
from torch.nn import functional as F

from spikesep.spiking import convert
from spikesep.spiking.network import NotConvertibleError


def squeeze_excitation():
    def run(net, x):
        x = net.first(x)
        return net.fc((x * torch.sigmoid(net.gate(x))).mean((2, 3)))

    return Net(run, first=conv(2, 4), gate=nn.Conv2d(4, 4, 1), fc=nn.Linear(4, 3))


def inverted_residual():
    def run(net, x):
        x = net.first(x)
        return net.last(net.narrow(net.wide(x)) + x)

    return Net(
        run, first=conv(2, 4), wide=conv(4, 6, 1), narrow=nn.Conv2d(6, 4, 1),
        last=nn.Conv2d(4, 3, 1),
    )  # fmt: skip


def recurrent():
    return nn.Sequential(nn.LSTM(4, 4), nn.Linear(4, 2))


def data_dependent():
    def run(net, x):
        return net.second(F.relu(net.first(x))) if x.sum() > 0 else x

    return Net(run, first=nn.Linear(4, 4), second=nn.Linear(4, 2))


def two_heads():
    def run(net, x):
        x = F.relu(net.first(x))
        return net.left(x), net.right(x)

    return Net(run, first=nn.Linear(4, 4), left=nn.Linear(4, 2), right=nn.Linear(4, 2))


def pooled_sum():
    def run(net, x):
        x = net.first(x)
        x = F.max_pool2d(x + net.second(x), 2)
        return net.fc(x.flatten(1))

    return Net(run, first=conv(2, 4), second=conv(4, 4), fc=nn.Linear(36, 3))


REFUSED = {
    "squeeze and excitation": (squeeze_excitation, IMAGE, "its forward() calls"),
    "inverted residual without ReLU": (
        inverted_residual, IMAGE, "'last' (Conv2d): follows synapse 'narrow' without a ReLU",
    ),
    "LSTM": (recurrent, (4,), "'0' (LSTM): a recurrent layer has no spiking counterpart"),
    "branches that depend on data": (data_dependent, (4,), "forward() cannot be traced"),
    "two heads": (two_heads, (4,), "returns tuple instead of one tensor"),
    "max pooling of a sum": (pooled_sum, IMAGE, "use average pooling, or put a Linear"),
}  # fmt: skip
"""Networks that are refused: the message."""


@pytest.mark.parametrize(("make", "shape", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_converted_is_refused_by_name(make, shape, message):
    with pytest.raises(NotConvertibleError) as caught:
        convert(make(), torch.randn(4, *shape))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
