import numpy as np
import pytest
from scipy.signal import hilbert

from spikesep.separation.data import recording_channel

RATE = 8000


def test_equalizer_has_minimum_phase():
    for seed in range(5):
        spectrum = np.fft.fft(recording_channel.draw_equalizer(np.random.default_rng(seed), RATE))
        # The phase of a minimum-phase filter is the Hilbert transform of its log magnitude.
        wanted = -np.imag(hilbert(np.log(np.abs(spectrum))))
        np.testing.assert_allclose(np.angle(spectrum * np.exp(-1j * wanted)), 0, atol=1e-6)


def test_equalizing_is_a_convolution():
    rng = np.random.default_rng(0)
    samples, response = rng.normal(size=3000), recording_channel.draw_equalizer(rng, RATE)
    wanted = np.convolve(samples, response)[: len(samples)]
    np.testing.assert_allclose(recording_channel.equalize(samples, response), wanted, atol=1e-9)


def test_noise_floor_is_relative_to_the_given_level():
    rng = np.random.default_rng(0)
    for n in (4000, 4001):
        levels = [
            10 * np.log10(np.square(recording_channel.draw_floor(rng, n, -25.0)).mean())
            for _ in range(200)
        ]
        assert min(levels) == pytest.approx(-25 + recording_channel.FLOOR_DB[0], abs=1)
        assert max(levels) == pytest.approx(-25 + recording_channel.FLOOR_DB[1], abs=1)
