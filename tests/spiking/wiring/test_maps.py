import itertools

import pytest
import torch
from torch import nn

from spikesep.spiking.signal import Signal
from spikesep.spiking.wiring.maps import Gate, Rearrangement
from spikesep.spiking.wiring.wires import Concatenation, Mapped, Output, Sum


@pytest.mark.parametrize("n_steps", [1, 8, 13])
def test_a_gate_fires_as_often_as_the_busiest_of_its_inputs(n_steps):
    torch.manual_seed(n_steps)
    spikes = torch.rand(n_steps, 2, 3, 7, 6) < torch.rand(2, 3, 7, 6)
    pool = nn.MaxPool2d(3, 2, padding=1)
    out = Gate(pool)(Signal.from_spikes(spikes, torch.tensor(0.3)))
    counts = spikes.sum(0).float()
    assert torch.equal(out.count, pool(counts).int())
    for n, c, i, j in itertools.product(range(2), range(3), range(4), range(3)):
        rows, columns = (slice(max(0, 2 * k - 1), 2 * k + 2) for k in (i, j))
        assert out.count[n, c, i, j] == counts[n, c, rows, columns].max()


def signals(n_steps=9):
    torch.manual_seed(0)
    return {
        name: Signal.from_spikes(torch.rand(n_steps, 2, n, 4) < 0.4, torch.tensor(0.1 * n))
        for name, n in (("a", 3), ("b", 2), ("c", 3))
    }


def test_a_wire_of_spikes_has_the_value_of_the_same_wire_of_values():
    given = signals()
    flip = Rearrangement(torch.flip, "flip", dims=(2,))
    wire = Concatenation((Sum((Output("a"), Output("c"))), Mapped(Output("b"), flip)), 1)
    found = wire.read(given)
    analog = {name: Signal(signal.value) for name, signal in signals().items()}
    wanted = wire.read(analog)
    assert not wanted.is_spiking
    torch.testing.assert_close(found.value, wanted.value)
    torch.testing.assert_close(found.drive().sum(0), wanted.value)
    assert wire.names == ("a", "c", "b")
    assert wire.units({"a": 2, "b": 9, "c": 3}) == 9


def test_max_pooling_of_a_sum_is_refused():
    with pytest.raises(ValueError, match="max pooling of a sum"):
        Mapped(Sum((Output("a"), Output("c"))), Gate(nn.MaxPool1d(2)))


@pytest.mark.parametrize("pool", [nn.MaxPool1d(2), nn.MaxPool2d(2)])
def test_max_pooling_over_positions_of_several_layers_is_refused(pool):
    """Windows would hold spikes of unequal thresholds. Layers beside each other in channels pool
    each by itself."""
    n_dims = 3 if isinstance(pool, nn.MaxPool1d) else 4
    for dim in range(-n_dims + 1, n_dims):
        beside = Concatenation((Output("a"), Output("b")), dim)
        if dim % n_dims == 1:
            Mapped(beside, Gate(pool))
        elif dim % n_dims:
            with pytest.raises(ValueError, match="over a concatenation of positions"):
                Mapped(beside, Gate(pool))
            with pytest.raises(ValueError, match="over a concatenation of positions"):
                Mapped(Concatenation((beside, Output("c"))), Gate(pool))
