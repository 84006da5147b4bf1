"""Graphs that exports do not represent are refused by name."""

import pytest
import torch
from torch import nn

from spikesep.errors import SpikeSepError
from spikesep.spiking import convert
from spikesep.spiking.export.stages import stages


class Block(nn.Module):
    """Two convolutions whose outputs meet before or behind the second ReLU, or side by side."""

    def __init__(self, meets):
        super().__init__()
        self.meets, width = meets, 8 if meets == "beside" else 4
        self.first, self.second = nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)
        self.last = nn.Conv1d(width, 1, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        if self.meets == "before":
            return self.last(torch.relu(self.second(x) + x))
        y = torch.relu(self.second(x))
        return self.last(torch.cat([x, y], 1) if self.meets == "beside" else x + y)


def converted(meets):
    torch.manual_seed(0)
    return convert(Block(meets).eval(), torch.randn(8, 2, 12), n_steps=4)


def test_sums_of_layers_are_sources():
    first, second, readout = stages(converted("behind"))
    assert not first.sources
    assert set(second.sources) == {"first"}
    assert set(readout.sources) == {"first", "second"}


@pytest.mark.parametrize(("meets", "layer"), [("before", "second"), ("beside", "readout")])
def test_shortcuts_and_concatenation_are_refused(meets, layer):
    with pytest.raises(SpikeSepError, match=rf"layer {layer}: reads .*; exports know sums"):
        stages(converted(meets))


def test_functions_of_the_potential_are_refused():
    network = converted("behind")
    network.tail = nn.Softmax(1)
    with pytest.raises(SpikeSepError, match="tail"):
        stages(network)
