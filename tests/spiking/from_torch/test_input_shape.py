"""Inputs made up to run a network once."""

import pytest
import torch
from torch import nn

from spikesep.spiking.from_torch.input_shape import input_shape
from spikesep.spiking.from_torch.tracing import from_module
from spikesep.spiking.network import NotConvertibleError

S, C1, C2, Linear, ReLU = nn.Sequential, nn.Conv1d, nn.Conv2d, nn.Linear, nn.ReLU


SHAPES = {
    "Linear": (S(Linear(7, 4), ReLU(), Linear(4, 2)), (7,)),
    "Conv1d": (S(C1(3, 4, 5, dilation=9), ReLU(), C1(4, 2, 1)), (3, 64)),
    "Conv1d, Flatten": (S(C1(3, 4, 5, 2), ReLU(), nn.Flatten(), Linear(68, 2)), (3, 37)),
    "Conv1d, Linear over places": (S(C1(3, 4, 5, padding="same"), ReLU(), Linear(17, 2)), (3, 17)),
    "oblong images": (
        S(
            C2(1, 4, (1, 64), (1, 4)),
            ReLU(),
            nn.AvgPool2d((3, 2), ceil_mode=True),
            C2(4, 4, (20, 1)),
            ReLU(),
            nn.Flatten(),
            Linear(4 * 3 * 7, 5),
        ),
        (1, 64, 112),
    ),
}


@pytest.mark.parametrize(("network", "least"), SHAPES.values(), ids=SHAPES)
def test_an_input_is_made_up_that_fits_all_layers(network, least):
    shape = input_shape(from_module(network).parts)
    network(torch.randn(1, *shape))
    assert all(n <= m for n, m in zip(shape, least, strict=True))


def test_an_input_can_be_given_where_none_can_be_made_up():
    network = S(nn.AvgPool2d(2), nn.Flatten(), Linear(8, 4), ReLU(), Linear(4, 2))
    with pytest.raises(NotConvertibleError, match=r"give an input: from_module\(network, ex"):
        from_module(network)
    with pytest.raises(NotConvertibleError, match=r"cannot be run on an input of \[1, 3, 4, 4\]"):
        from_module(network, torch.randn(1, 3, 4, 4))
    from_module(network, torch.randn(1, 2, 4, 4))
