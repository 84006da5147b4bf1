import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikesep.spiking.packed import SpikeCache, pack, unpack
from spikesep.spiking.signal import SpikeTrains


@given(st.integers(1, 40), st.integers(0, 1000), st.floats(0, 1))
def test_unpacking_gives_back_every_spike(n_steps, seed, rate):
    spikes = torch.rand(n_steps, 3, 5, generator=torch.Generator().manual_seed(seed)) < rate
    words = pack(spikes)
    assert words.shape == (-(-n_steps // 8), 3, 5)
    assert torch.equal(unpack(words, n_steps), spikes)


def test_bits_count_steps_from_the_lowest():
    spikes = torch.zeros(10, 1, dtype=torch.bool)
    spikes[[0, 3, 9]] = True
    assert pack(spikes).flatten().tolist() == [0b1001, 0b10]


@pytest.mark.parametrize("n_steps", [1, 8, 9, 32])
def test_a_cached_batch_in_any_order_is_the_signal_that_went_in(n_steps):
    trains = SpikeTrains(torch.rand(n_steps, 4, 6, 7) < 0.2, torch.tensor(0.3))
    cache = SpikeCache(trains)
    cache.put([10, 11, 12, 13], trains)
    got = cache.get([12, 10])
    assert torch.equal(got.trains[0].spikes, trains.spikes[:, [2, 0]])
    torch.testing.assert_close(got.value, trains.spikes[:, [2, 0]].sum(0) * 0.3)
    assert len(cache) == 4
    assert cache.nbytes == 4 * 6 * 7 * -(-n_steps // 8)


def test_spikes_of_two_layers_do_not_mix():
    spikes = torch.rand(4, 2, 3) < 0.2
    cache = SpikeCache(SpikeTrains(spikes, torch.tensor(0.3)))
    with pytest.raises(ValueError, match="one layer"):
        cache.put([2, 3], SpikeTrains(spikes, torch.tensor(0.4)))
