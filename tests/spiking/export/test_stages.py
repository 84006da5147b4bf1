"""Graphs that exports do not represent are refused by name."""

import pytest
import torch
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking import convert
from spikesep.spiking.export.stages import stages


class Block(nn.Module):
    """Two convolutions whose outputs meet before or behind the second ReLU, or side by side.

    The output of one may also meet itself, or the input.
    """

    def __init__(self, meets):
        super().__init__()
        self.meets, width = meets, 8 if meets == "beside" else 4
        self.first, self.second = (nn.Conv1d(4, 4, 3, padding=1) for _ in range(2))
        self.last = nn.Conv1d(width, 1, 1)

    def forward(self, given):
        x = torch.relu(self.first(given))
        if self.meets == "before":
            return self.last(torch.relu(self.second(x) + x))
        y = torch.relu(self.second(x + x if self.meets == "twice" else x))
        if self.meets == "input":
            return self.last(given + y)
        return self.last(torch.cat([x, y], 1) if self.meets == "beside" else x + y)


def converted(meets):
    torch.manual_seed(0)
    return convert(Block(meets).eval(), torch.randn(8, 4, 12), n_steps=4)


def test_sums_of_layers_are_sources():
    first, second, readout = stages(converted("behind"))
    assert not first.sources
    assert set(second.sources) == {"first"}
    assert set(readout.sources) == {"first", "second"}


@pytest.mark.parametrize(
    ("meets", "layer"),
    [("before", "second"), ("beside", "readout"), ("twice", "second"), ("input", "readout")],
)
def test_what_is_no_sum_of_different_layers_is_refused(meets, layer):
    with pytest.raises(SpikeSepError, match=rf"layer {layer}: reads .*; exports know sums"):
        stages(converted(meets))


def test_functions_of_the_potential_are_refused():
    network = converted("behind")
    network.tail = nn.Softmax(1)
    with pytest.raises(SpikeSepError, match="tail"):
        stages(network)
