"""Conversion of a network with shortcuts and concatenations, on cached and on recomputed spikes."""

import pytest
import torch
from helpers.conversion import Examples, convert, same
from helpers.tutorials import Net
from torch import nn
from torch.nn import functional as F

from spikesep.errors import SpikeSepError
from spikesep.spiking import from_module


class Graph(nn.Module):
    """A convertible model around a traced network, [n, 6, 10] -> [n, 2, 10]."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)

        def run(net, x):
            x = F.relu(net.norm(net.first(x)))
            x = F.relu(net.second(F.max_pool1d(x, 3, 1, 1)) + x)
            return net.last(torch.cat([F.relu(net.third(x)), x], 1))

        plain = Net(
            run, first=nn.Conv1d(6, 5, 1), norm=nn.BatchNorm1d(5), second=nn.Conv1d(5, 5, 1),
            third=nn.Conv1d(5, 4, 3, padding=1), last=nn.Conv1d(9, 2, 1),
        )  # fmt: skip
        x = torch.stack([x for x, _ in Examples(16, 1).pairs])
        plain(x)
        self.network = from_module(plain.eval(), x)

    def encode(self, x):
        return x, None

    def decode(self, potential, context):
        return potential

    def front(self):
        return []


@pytest.mark.parametrize("weight_bits", [0, 8])
def test_cached_spikes_change_nothing_and_training_helps(tmp_path, weight_bits):
    models = []
    for memory in (4.0, 0.0):
        folder = tmp_path / str(memory)
        model, _, history = convert(
            folder, Graph().eval(), memory_gib=memory, weight_bits=weight_bits
        )
        models.append(model)
        assert history[-1].valid_loss < history[0].valid_loss
    assert same(*models)
    assert models[0].network.is_fixed_point == bool(weight_bits)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"synops": 0.5}, "budget.synops"),
        ({"synops_weight": 0.5}, "budget.synops_weight"),
        ({"method": "surrogate"}, "method surrogate"),
        ({"fan_in": 3}, "fan_in"),
    ],
)
def test_what_needs_layers_in_a_row_is_refused_by_name(tmp_path, settings, name):
    with pytest.raises(SpikeSepError, match=f"{name}.*: needs a sequence of layers"):
        convert(tmp_path, Graph().eval(), **settings)
