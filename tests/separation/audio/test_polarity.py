import numpy as np
import pytest
from scipy.signal import lfilter

from spikesep.separation.audio.polarity import polarity, skewness_of_residual

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


def test_the_sign_follows_the_pulses(vowels):
    for vowel in vowels:
        assert polarity(vowel, RATE) == -1
        assert polarity(-vowel, RATE) == 1


def test_level_and_offset_do_not_matter(vowels):
    wanted = skewness_of_residual(vowels[0], RATE)
    for gain, offset in ((1e-4, 0.0), (1e3, 0.0), (1.0, 5.0)):
        found = skewness_of_residual(gain * (vowels[0] + offset), RATE)
        assert found == pytest.approx(wanted, rel=1e-3)


def test_noise_alone_has_none():
    noise = np.random.default_rng(0).normal(size=4 * RATE)
    assert abs(skewness_of_residual(noise, RATE)) < 0.1


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.ones(10)])
def test_what_is_silent_or_short_is_refused(samples):
    with pytest.raises(ValueError, match="silent"):
        polarity(samples, RATE)
