import pytest
import torch

from spikesep.errors import SpikeSepError
from spikesep.spiking.signal import MOST_STEPS, Coding, Signal, require_finite, straight_through


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
