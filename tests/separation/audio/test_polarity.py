import numpy as np
import pytest
import soundfile
from scipy.signal import lfilter

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.polarity import polarity, recording_polarity, residual_skewness

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


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.full(RATE, 0.5), np.arange(10)])
def test_silent_and_short_signals_are_rejected(samples):
    with pytest.raises(ValueError, match="silent"):
        polarity(samples, RATE)


def test_silence_at_the_beginning_of_a_recording_is_passed_over(vowels, tmp_path):
    path = tmp_path / "a.wav"
    for sign in (1, -1):
        voice = sign * vowels[1] / np.abs(vowels[1]).max()
        soundfile.write(path, np.concatenate([np.zeros(4 * RATE), voice]), RATE)
        assert recording_polarity(path, 3.0) == -sign


def test_silent_recording_is_named(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    with pytest.raises(SpikeSepError, match=r"a\.wav: is shorter than a frame, or silent; remove"):
        recording_polarity(tmp_path / "a.wav", 3.0)
