import numpy as np
import pytest
from scipy.signal import lfilter

from spikesep.separation.audio.polarity import polarity, residual_skewness

RATE = 8000


@pytest.fixture(scope="module")
def vowels():
    """Glottal pulses at three pitches through a filter of two formants, with a little noise."""
    rng = np.random.default_rng(0)
    made = []
    for hz in (90, 140, 220):
        pulses = np.zeros(2 * RATE)
        pulses[:: RATE // hz] = -1.0
        for formant, bandwidth in ((500, 60), (1500, 90)):
            radius = np.exp(-np.pi * bandwidth / RATE)
            pulses = lfilter(
                [1], [1, -2 * radius * np.cos(2 * np.pi * formant / RATE), radius**2], pulses
            )
        made.append(pulses + 0.01 * rng.normal(size=len(pulses)))
    return made


def test_polarity_is_the_sign_of_the_glottal_pulses(vowels):
    for vowel in vowels:
        assert polarity(vowel, RATE) == -1
        assert polarity(-vowel, RATE) == 1


def test_skewness_is_independent_of_gain_and_offset(vowels):
    wanted = residual_skewness(vowels[0], RATE)
    for gain, offset in ((1e-4, 0.0), (1e3, 0.0), (1.0, 5.0)):
        found = residual_skewness(gain * (vowels[0] + offset), RATE)
        assert found == pytest.approx(wanted, rel=1e-3)


def test_skewness_of_noise_is_near_zero():
    noise = np.random.default_rng(0).normal(size=4 * RATE)
    assert abs(residual_skewness(noise, RATE)) < 0.1


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.ones(10)])
def test_silent_and_short_signals_are_rejected(samples):
    with pytest.raises(ValueError, match="silent"):
        polarity(samples, RATE)
