import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesep.separation.audio.conditioning import (
    LOOK_AHEAD,
    MIN_POWER,
    OFFSET_CELLS,
    RELEASE_DB,
    STANDARD_AMPLITUDE,
    Conditioner,
    condition,
)

RATE = 1000
CELL = 10  # samples


def noise(n, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, n)


def slow_condition(samples):
    """Condition in plain loops, one sample at a time."""
    means, powers, mean, power = [], [], 0.0, MIN_POWER
    for c in range(-(-len(samples) // CELL)):
        cell = samples[c * CELL : (c + 1) * CELL]
        mean += (sum(cell) / len(cell) - mean) / min(c + 1, OFFSET_CELLS)
        here = sum((x - mean) ** 2 for x in cell) / len(cell)
        power = max(here, power * 10 ** (-RELEASE_DB / 10 * CELL / RATE), MIN_POWER)
        means.append(mean)
        powers.append(power)
    conditioned, factors = [], []
    for n, x in enumerate(samples):
        share = n % CELL / CELL
        before = min(n // CELL + LOOK_AHEAD - 1, len(means) - 1)
        behind = min(n // CELL + LOOK_AHEAD, len(means) - 1)
        offset = (1 - share) * means[before] + share * means[behind]
        level = (1 - share) * powers[before] ** 0.5 + share * powers[behind] ** 0.5
        factors.append(level / STANDARD_AMPLITUDE)
        conditioned.append((x - offset) / factors[-1])
    return np.array([conditioned, factors])


@pytest.mark.parametrize("n", [1, 9, 10, 95, 110, 111, 1234])
def test_conditioning_equals_plain_loops(n):
    samples = noise(n) * np.linspace(0.1, 2, n) + 0.3
    np.testing.assert_allclose(condition(samples, RATE), slow_condition(samples), rtol=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 3000),
    sizes=st.lists(st.integers(0, 400), min_size=1, max_size=4),
    rate=st.sampled_from([1000, 8000, 11025]),
)
def test_block_sizes_change_no_bit(n, sizes, rate):
    samples, conditioner, pieces, k = noise(n), Conditioner(rate), [], 0
    while k < n:
        size = sizes[len(pieces) % len(sizes)] + 1
        pieces.append(conditioner.push(samples[k : k + size]))
        k += size
    pieces.append(conditioner.flush())
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), condition(samples, rate))


@settings(max_examples=30, deadline=None)
@given(octaves=st.integers(-13, 10), offset=st.floats(-1, 1))
def test_gain_and_offset_leave_no_trace(octaves, offset):
    samples = noise(5000)
    plain, _ = condition(samples, 8000)
    scaled, factor = condition(samples * 2.0**octaves, 8000)
    np.testing.assert_array_equal(scaled, plain)
    np.testing.assert_array_equal(factor, condition(samples, 8000)[1] * np.float32(2.0**octaves))
    np.testing.assert_allclose(condition(samples + offset, 8000)[0], plain, atol=1e-6)


def test_samples_and_factor_restore_the_signal_without_its_offset():
    samples = noise(20000) * np.linspace(0.001, 1, 20000)
    conditioned, factor = condition(samples, 8000)
    np.testing.assert_allclose(conditioned * factor, samples, atol=0.02)
    assert np.abs(condition(samples, 8000)[0]).max() < 10 * STANDARD_AMPLITUDE


def test_silence_stays_silence_and_a_voice_behind_it_is_at_its_level():
    samples = np.concatenate([np.zeros(8000), noise(8000)])
    conditioned, _ = condition(samples, 8000)
    assert not conditioned[:6000].any()
    assert 0.3 < conditioned[8000:].std() / STANDARD_AMPLITUDE < 1


def test_samples_arrive_within_the_stated_latency():
    conditioner, returned = Conditioner(8000), 0
    for k in range(1, 100):
        returned += conditioner.push(noise(53)).shape[1]
        assert returned >= 53 * k - conditioner.latency * 8000
