import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from spikesep.separation.inference.output_level import LevelMeter, set_level


def noise(n, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, n).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(0.01, 100), st.booleans())
def test_match_mix_minimizes_the_error_of_the_mixture(seed, first, second, is_unrelated):
    """Compare with a grid of gains around the solution."""
    rng = np.random.default_rng(seed)
    voices = rng.normal(0, 0.01, (2, 300))
    mixture = voices.sum(0) if not is_unrelated else rng.normal(0, 0.01, 300)
    estimates = voices * [[first], [second]]
    leveled, scale = set_level(estimates, mixture, "match-mix")
    assert scale == 1
    if not is_unrelated:
        np.testing.assert_allclose(leveled, voices, atol=1e-6)
    error = np.square(leveled.sum(0) - mixture).sum()
    for a, b in itertools.product((0.0, 0.9, 1.0, 1.1), repeat=2):
        assert error <= np.square(a * leveled[0] + b * leveled[1] - mixture).sum() + 1e-9


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_gains_equal_those_of_a_nonnegative_least_squares_solver(seed, n_speakers):
    rng = np.random.default_rng(seed)
    voices, mixture = rng.normal(0, 0.01, (n_speakers, 50)), rng.normal(0, 0.02, 50)
    meter = LevelMeter(n_speakers)
    meter.add(voices, mixture)
    gains, scale = meter.gains("match-mix")
    np.testing.assert_allclose(gains / scale, nnls(voices.T, mixture)[0], atol=1e-6)


def test_match_mix_never_inverts_a_voice():
    voice = noise(300).astype(np.float64)
    leveled, _ = set_level(np.stack([voice, -voice]), voice, "match-mix")
    np.testing.assert_allclose(leveled[0], voice, atol=1e-6)
    assert (leveled[1] == 0).all()


def test_peak_scales_every_voice_except_silence():
    leveled, _ = set_level(
        np.stack([noise(100) * 50, noise(100, 1) * 0.01, np.zeros(100)]), np.zeros(100), "peak"
    )
    np.testing.assert_allclose(np.abs(leveled).max(1), [0.9, 0.9, 0], rtol=1e-6)


def test_voices_beyond_full_scale_are_attenuated_together():
    estimates = np.stack([noise(100) * 50, noise(100, 1) * 5])
    leveled, scale = set_level(estimates, np.zeros(100), "none")
    assert np.abs(leveled).max() == pytest.approx(1)
    np.testing.assert_allclose(leveled, estimates * scale, rtol=1e-5)
