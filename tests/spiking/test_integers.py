import copy
import itertools

import pytest
import torch
from torch import nn

from spikesep.spiking.integers import FixedPoint, dequantized


def fixed_point(seed=0):
    fixed = FixedPoint(nn.Linear(4, 3))
    generator = torch.Generator().manual_seed(seed)
    fixed.weight.copy_(torch.randint(-7, 8, (3, 4), generator=generator))
    fixed.bias.copy_(torch.tensor([5, -9, 0]))
    fixed.threshold.fill_(40)
    return fixed


def test_the_reach_is_the_largest_sum_of_any_weights_of_a_channel():
    fixed = fixed_point()
    sums = [
        abs(sum(row[k] for k in chosen))
        for row in fixed.weight.tolist()
        for n in range(5)
        for chosen in itertools.combinations(range(4), n)
    ]
    assert fixed.reaches()[0] == max(sums)


def test_potentials_stay_within_the_bound():
    fixed, units, n_steps = fixed_point(), 3, 6
    fixed.fraction.fill_(2)
    most = fixed.most([units], n_steps, n_steps)
    for signs in itertools.product([0, units], repeat=4):
        arriving = fixed.weight.long() @ torch.tensor(signs) * 4 + fixed.bias
        assert (arriving.abs() * n_steps).max() <= most


def test_arrangements_are_cached_until_the_weights_change():
    fixed, calls = fixed_point(), []

    def arrange():
        calls.append(1)
        return fixed.weight.clone()

    first = fixed.arranged("key", arrange)
    assert fixed.arranged("key", arrange) is first
    fixed.weight += 1
    assert torch.equal(fixed.arranged("key", arrange), fixed.weight)
    assert len(calls) == 2
    assert copy.deepcopy(fixed)._arranged == {}


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 5), (3, 2, 2, 2)])
def test_dequantized_weights_are_integers_times_the_scale_of_their_channel(shape):
    weight, scale = torch.randint(-127, 128, shape), torch.tensor([0.5, 0.25, 2.0])
    found = dequantized(weight, scale)
    assert all(torch.equal(found[k], weight[k] * scale[k]) for k in range(3))


def test_number_formats_are_those_of_the_integers_whatever_the_network_is_cast_to():
    network = nn.ModuleList([fixed_point()])
    network[0].input_unit.fill_(1 / 3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.half().float().double()
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name]), name
