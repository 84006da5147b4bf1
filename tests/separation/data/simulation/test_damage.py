import numpy as np
import pytest

from spikesep.separation.data.simulation.damage import CODECS, align, damage, limit_band, transmit
from spikesep.separation.mixing_config import DamageConfig


def chirps(rate, seconds=1.0):
    """Sweeps from 400 to 1500 Hz with pauses, which have one clear delay."""
    time = np.arange(round(rate * seconds)) / rate
    sweep = np.sin(2 * np.pi * (400 * (time % 0.3) + 1800 * (time % 0.3) ** 2))
    return 0.4 * sweep * (time % 0.3 < 0.22)


def level_db(samples):
    return 10 * np.log10(np.square(samples).mean())


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("name", CODECS)
def test_codecs_keep_length_level_and_time(name, rate, monkeypatch):
    monkeypatch.setattr("spikesep.separation.data.simulation.damage.CODECS", {name: CODECS[name]})
    original = chirps(rate)
    decoded = transmit(original, rate, np.random.default_rng(0))
    assert decoded.shape == original.shape
    assert level_db(decoded) == pytest.approx(level_db(original), abs=2)
    similarity = np.corrcoef(decoded, original)[0, 1]
    assert 0.6 < similarity < 0.999999
    for shift in (-2, 2):  # no other delay fits better
        assert np.corrcoef(np.roll(decoded, shift), original)[0, 1] < similarity


def test_any_sample_rate_is_transmitted():
    for seed in range(8):
        assert transmit(chirps(44100), 44100, np.random.default_rng(seed)).shape == (44100,)
    assert not transmit(np.zeros(800), 8000, np.random.default_rng(0)).any()


@pytest.mark.parametrize("delay", [-37, 0, 5, 300])
def test_delays_are_found(delay):
    original = np.random.default_rng(0).normal(size=2000)
    delayed = np.pad(original, (max(0, delay), 50))[max(0, -delay) :]
    aligned = align(delayed, original, 400)
    assert aligned.shape == (2000,)
    inside = slice(max(0, -delay), 2000)
    np.testing.assert_allclose(aligned[inside], original[inside])


def test_telephone_band_keeps_300_to_3400_hz():
    for rate in (8000, 16000):
        time = np.arange(rate) / rate
        gain = {}
        for hz in (100, 1000, 3000, 3900):
            tone = np.sin(2 * np.pi * hz * time)
            gain[hz] = level_db(limit_band(tone[None], rate)[0]) - level_db(tone)
        assert gain[1000] == pytest.approx(0, abs=0.5)
        assert gain[3000] > -3
        assert gain[100] < -30
        assert gain[3900] < -6
    assert limit_band(np.ones((1, 100)), 6000).shape == (1, 100)


def test_offset_and_clipping():
    mixture, rng = chirps(8000), np.random.default_rng(0)
    shifted = damage(mixture, DamageConfig(offset=1.0), 8000, rng)
    assert np.ptp(shifted - mixture) < 1e-12
    assert 0 < abs((shifted - mixture).mean()) <= 0.1 * np.abs(mixture).max()
    clipped = damage(mixture, DamageConfig(clipping=1.0), 8000, rng)
    limit = np.abs(clipped).max()
    assert limit < np.abs(mixture).max()
    np.testing.assert_array_equal(clipped, mixture.clip(-limit, limit))
    np.testing.assert_array_equal(damage(mixture, DamageConfig(), 8000, rng), mixture)
