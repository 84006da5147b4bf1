import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesep.spiking.neuron import constant_current_count, integrate_and_fire, spike_count


def loop(current, threshold, initial):
    """Eqs. 3-5 neuron by neuron in float64, in plain Python."""
    n_steps = len(current)
    spikes, rest = [], []
    for neuron in zip(*current, strict=True):
        v, fired = initial, False
        trains = []
        for t in range(n_steps):
            v = v + neuron[t] - threshold * fired
            fired = v >= threshold
            trains.append(fired)
        spikes.append(trains)
        rest.append(v - threshold * fired)
    return spikes, rest


# Multiples of 1/64 below 64: sums are exact in float32, so that nothing hides behind rounding.
dyadic = st.integers(-4096, 4096).map(lambda n: n / 64)
positive = st.integers(1, 4096).map(lambda n: n / 64)
currents = st.integers(1, 33).flatmap(
    lambda n: st.lists(st.lists(dyadic, min_size=5, max_size=5), min_size=n, max_size=n)
)
shares = st.sampled_from([0.0, 0.25, 0.5])


@given(currents, positive, shares)
def test_spikes_and_rest_are_those_of_a_plain_float64_loop(current, threshold, share):
    spikes, rest = integrate_and_fire(torch.tensor(current), threshold, share * threshold)
    expected_spikes, expected_rest = loop(current, threshold, share * threshold)
    assert spikes.T.tolist() == expected_spikes
    assert rest.tolist() == expected_rest


@given(currents, positive, shares)
def test_counts_lie_within_the_window_and_charge_is_conserved(current, threshold, share):
    z = torch.tensor(current)
    spikes, rest = integrate_and_fire(z, threshold, share * threshold)
    count = spike_count(spikes)
    assert ((count >= 0) & (count <= len(z))).all()
    torch.testing.assert_close(
        z.double().sum(0),
        threshold * count.double() + rest.double() - share * threshold,
        rtol=0,
        atol=0,
    )


@given(st.integers(1, 32), dyadic, positive, shares)
def test_a_constant_current_is_counted_without_stepping(n_steps, z, threshold, share):
    current = torch.full((n_steps, 1), z)
    count = spike_count(integrate_and_fire(current, threshold, share * threshold)[0])
    assert (
        count.item()
        == constant_current_count(
            torch.tensor(z * n_steps), threshold, share * threshold, n_steps
        ).item()
    )


@given(st.integers(1, 32), st.integers(-4096, 4096), st.integers(1, 1000))
def test_with_half_the_threshold_to_begin_with_the_count_is_the_rounded_charge(
    n_steps, charge, threshold
):
    current = torch.full((n_steps, 1), charge / n_steps, dtype=torch.float64)
    count = spike_count(integrate_and_fire(current, threshold, threshold / 2)[0]).item()
    rounded = min(
        max((2 * charge + threshold) // (2 * threshold), 0), n_steps
    )  # to nearest, half up
    if (2 * charge + threshold) % (2 * threshold) == 0 and charge % n_steps:
        assert count in (rounded, rounded - 1)  # the sum of rounded steps may miss the tie
    else:
        assert count == rounded


@settings(max_examples=20)
@given(st.integers(2, 16), dyadic)
def test_an_expanded_view_gives_what_the_repeated_current_gives(n_steps, z):
    view = torch.full((3,), z).expand(n_steps, 3)
    spikes, rest = integrate_and_fire(view, 1.0, 0.5)
    expected, expected_rest = integrate_and_fire(view.contiguous(), 1.0, 0.5)
    assert torch.equal(spikes, expected)
    assert torch.equal(rest, expected_rest)


def test_a_call_leaves_its_input_and_no_state_behind():
    current = torch.randn(8, 4, 5)
    before = current.clone()
    first = integrate_and_fire(current, 0.7, 0.35)
    second = integrate_and_fire(current, 0.7, 0.35)
    assert torch.equal(current, before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
