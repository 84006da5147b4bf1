import numpy as np
import pytest
import torch

from spikesep.errors import SpikeSepError
from spikesep.spiking.signal import (
    MOST_STEPS,
    Coding,
    Signal,
    SpikeTrains,
    require_finite,
    straight_through,
)
from spikesep.spiking.spike_trains import packed


def spikes(n_steps=11, share=0.3):
    return torch.rand(n_steps, 2, 3, 5) < share


def test_a_value_is_threshold_times_count():
    fired = spikes()
    signal = Signal.from_spikes(fired, torch.tensor(0.25))
    assert torch.equal(signal.count, fired.sum(0).int())
    assert torch.equal(signal.value, fired.sum(0) * 0.25)
    assert signal.shape == (2, 3, 5)
    (trains,) = signal.trains
    assert torch.equal(trains.spikes, fired)
    assert trains.n_spikes == int(fired.sum())
    assert torch.equal(trains.position_count, fired.sum((0, 2))[:, None])


def test_a_sum_of_spiking_signals_spikes_each_with_its_threshold():
    first, second = spikes(), spikes()
    total = Signal.from_spikes(first, torch.tensor(0.25)) + Signal.from_spikes(
        second, torch.tensor(0.5)
    )
    assert torch.equal(total.value, first.sum(0) * 0.25 + second.sum(0) * 0.5)
    assert torch.equal(total.drive(), first * 0.25 + second * 0.5)
    assert torch.equal(total.count, (first.sum(0) + second.sum(0)).int())


@pytest.mark.parametrize("shape", [(2, 16, 5), (1, 13, 7), (3, 8)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("n_steps", [1, 8, 22, 255])
def test_bursts_are_the_spikes_that_they_stand_for(shape, channels_last, n_steps):
    counts = torch.randint(0, n_steps + 1, shape, dtype=torch.uint8)
    if channels_last:
        counts = counts.movedim(1, -1).contiguous().movedim(-1, 1)
    bursts = SpikeTrains(packed.Bursts(counts), n_steps, torch.tensor(0.25))
    steps = torch.arange(n_steps).view(-1, *[1] * len(shape))
    fired = SpikeTrains(packed.pack(steps < counts), n_steps, torch.tensor(0.25))
    assert torch.equal(bursts.words, fired.words)
    assert bursts.shape == fired.shape == shape
    for name in ("spikes", "count", "position_count", "value"):
        assert torch.equal(getattr(bursts, name), getattr(fired, name)), name
    assert bursts.n_spikes == fired.n_spikes
    assert torch.equal(packed.burst(counts.int(), n_steps), fired.words)


@pytest.mark.parametrize("n_channels", [1, 8, 100])
def test_counts_add_up_by_channel_and_kind_of_row(n_channels):
    counts = torch.randint(0, 256, (700, n_channels), dtype=torch.uint8)
    counts[:300] = 255  # more than 16 bits hold
    kinds = np.repeat([0, 2, 1, 2], [300, 100, 200, 100])
    found = packed.sum_channels(counts, kinds, 3)
    other = packed.sum_channels(counts.int(), kinds, 3)
    for one, two, values in zip(found, other, (counts, counts > 0), strict=True):
        expected = torch.stack([values[kinds == kind].long().sum(0) for kind in range(3)])
        assert torch.equal(one, expected)
        assert torch.equal(two, expected)


def test_a_sum_with_an_analog_signal_is_analog():
    total = Signal(torch.ones(2, 3, 5)) + Signal.from_spikes(spikes(), torch.tensor(0.5))
    assert not total.is_spiking
    with pytest.raises(ValueError, match="no spike count"):
        _ = total.count


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    twin = torch.tensor([1.0, 2.0], requires_grad=True)
    out = straight_through(torch.tensor([0.3, 0.7]), 3 * twin)
    out.sum().backward()
    assert torch.equal(out.detach(), torch.tensor([0.3, 0.7]))
    assert torch.equal(twin.grad, torch.tensor([3.0, 3.0]))


@pytest.mark.parametrize(
    "settings",
    [
        {"n_steps": 0},
        {"n_steps": MOST_STEPS + 1},
        {"n_steps": 2.0},
        {"encoding": "burst"},
        {"initial_potential": 1.0},
    ],
)
def test_codings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Coding(**settings)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_named(bad):
    require_finite(torch.zeros(0), "nothing")
    with pytest.raises(SpikeSepError, match="the input contains NaN or Inf"):
        require_finite(torch.tensor([0.0, bad]), "the input")
