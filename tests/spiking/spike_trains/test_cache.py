import pytest
import torch

from spikesep.spiking.signal import SpikeTrains
from spikesep.spiking.spike_trains.cache import SpikeCache
from spikesep.spiking.spike_trains.packed import pack


def trains_of(spikes, threshold):
    return SpikeTrains(pack(spikes), len(spikes), torch.tensor(threshold))


@pytest.mark.parametrize("n_steps", [1, 8, 9, 32])
def test_a_cached_batch_in_any_order_is_what_went_in(n_steps):
    spikes = torch.rand(n_steps, 4, 6, 7) < 0.2
    trains = trains_of(spikes, 0.3)
    cache = SpikeCache(6, trains)
    cache.put([2, 3, 4, 5], trains)
    got = cache.get([4, 2])
    assert torch.equal(got.spikes, spikes[:, [2, 0]])
    torch.testing.assert_close(got.value, spikes[:, [2, 0]].sum(0) * 0.3)
    assert cache.nbytes == SpikeCache.size(6, trains) == 6 * 6 * 7 * -(-n_steps // 8)


def test_the_multiple_of_a_fixed_point_threshold_is_kept():
    trains = SpikeTrains(pack(torch.rand(8, 2, 3) < 0.2), 8, torch.tensor(0.3), multiple=5)
    cache = SpikeCache(2, trains)
    cache.put([0, 1], trains)
    assert cache.get([1]).multiple == 5


def test_spikes_of_two_layers_do_not_mix():
    spikes = torch.rand(4, 2, 3) < 0.2
    cache = SpikeCache(4, trains_of(spikes, 0.3))
    with pytest.raises(ValueError, match="one layer"):
        cache.put([2, 3], trains_of(spikes, 0.4))
