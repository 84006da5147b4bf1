import re

import numpy as np
import pytest
import soundfile
from helpers.paths import SHARED
from hypothesis import given
from hypothesis import strategies as st

from spikesep.separation.audio.files import resample
from spikesep.separation.audio.levels import active_level

GOLDEN = SHARED / "golden" / "wsj0-2mix"
RATE = 8000


def bursts(seed, seconds=2.0, rate=RATE):
    chance = np.random.default_rng(seed)
    level = np.repeat(chance.choice([0.0, 0.3, 1.0], size=int(8 * seconds)), rate // 8)
    level[: rate // 8] = 1.0
    return 0.1 * level * chance.standard_normal(len(level))


def slow_level(samples, rate):
    """Compute P.56 as it is written, with loops over thresholds and samples."""
    from scipy.signal import freqz, iirfilter

    # Find the stop-band edge for a gain of -0.25 dB at 200 Hz by bisection.
    low, high = 20.0, 200.0
    for _ in range(80):
        edge = (low + high) / 2
        b, a = iirfilter(5, edge, rs=50, btype="highpass", ftype="cheby2", fs=rate)
        gain = 20 * np.log10(np.abs(freqz(b, a, [200.0], fs=rate)[1][0]))
        low, high = (edge, high) if gain > -0.25 else (low, edge)
    signal = np.concatenate([samples, np.zeros(int(np.ceil(0.35 * rate)))])
    filtered = np.zeros_like(signal)
    for n in range(len(signal)):
        past = sum(b[k] * signal[n - k] for k in range(6) if n >= k) - sum(
            a[k] * filtered[n - k] for k in range(1, 6) if n >= k
        )
        filtered[n] = past
    pole = np.exp(-1 / (0.03 * rate))
    one = two = 0.0
    envelope = []
    for value in np.abs(filtered):
        one = pole * one + (1 - pole) * value
        two = pole * two + (1 - pole) * one
        envelope.append(two * two)
    hangover = int(np.ceil(0.2 * rate))
    held = [max(envelope[max(0, n - hangover) : n + 1]) for n in range(len(envelope))]
    energy = np.sum(filtered**2)
    top = np.floor(np.log2(max(envelope)))
    previous = None
    for k in range(20):
        edge = 2.0 ** (top - k)
        level = 10 * np.log10(energy / sum(value >= edge for value in held))
        excess = level - 10 * np.log10(edge) - 15.9
        if excess >= 0:
            if previous is None:
                return level
            share = previous[1] / (previous[1] - excess)
            return previous[0] + share * (level - previous[0])
        previous = level, excess
    return previous[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_level_matches_a_direct_implementation_of_p56(seed):
    samples = bursts(seed, seconds=1.0)
    assert active_level(samples, RATE) == pytest.approx(slow_level(samples, RATE), abs=1e-6)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no {GOLDEN}")
def test_level_matches_that_of_the_original_script():
    """The gain is scaling16bit * 10^(weight/20) / sqrt(level), as printed by Octave."""
    checked = 0
    for split in ("tr", "cv", "tt"):
        text = (GOLDEN / "2speakers" / "wav8k" / "min" / split / "scaling.mat").read_text()
        values = [
            [float(v) for v in line.split()]
            for line in text.splitlines()
            if re.match(r"^ -?\d", line)
        ]
        rows = (GOLDEN / f"mix_2_spk_{split}.txt").read_text().splitlines()
        scalings, common = values[: len(rows)], values[len(rows) :]
        for row, gains, (scale,) in zip(rows, scalings, common, strict=True):
            words = row.split()
            for name, weight, gain in zip(words[::2], words[1::2], gains, strict=True):
                samples = resample(soundfile.read(GOLDEN / name)[0], 16000, RATE)
                level = 20 * np.log10(scale / gain) + float(weight)
                assert active_level(samples, RATE) == pytest.approx(level, abs=1e-9)
                checked += 1
    assert checked == 12


@given(st.integers(0, 1000), st.floats(-40, 20))
def test_level_follows_the_gain(seed, gain_db):
    samples = bursts(seed)
    louder = active_level(samples * 10 ** (gain_db / 20), RATE)
    assert louder == pytest.approx(
        active_level(samples, RATE) + gain_db, abs=1.0
    )  # thresholds lie 3 dB apart
    assert active_level(4 * samples, RATE) == pytest.approx(
        active_level(samples, RATE) + 20 * np.log10(4), abs=1e-9
    )


@given(st.integers(0, 1000))
def test_pauses_do_not_change_the_level(seed):
    samples = bursts(seed)
    pause = np.zeros(5 * RATE)
    assert active_level(np.concatenate([pause, samples, pause]), RATE) == pytest.approx(
        active_level(samples, RATE), abs=0.1
    )


def test_level_hardly_depends_on_the_sample_rate():
    samples = bursts(3, rate=16000)
    smooth = np.convolve(
        samples, np.hanning(16) / np.hanning(16).sum(), "same"
    )  # removes most above 4 kHz
    assert active_level(smooth, 16000) == pytest.approx(
        active_level(resample(smooth, 16000, RATE), RATE), abs=0.2
    )


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_level_of_silence_is_minus_infinity(rate):
    assert active_level(np.zeros(rate, np.float32), rate) == -np.inf
    assert active_level(np.zeros(0, np.float32), rate) == -np.inf


def test_level_of_a_click_in_long_silence_is_finite():
    click = np.zeros(60 * RATE)
    click[RATE] = 1.0
    assert np.isfinite(active_level(click, RATE))


def test_short_peak_hardly_changes_the_level_of_a_long_recording():
    chance = np.random.default_rng(0)
    voice = 0.1 * chance.standard_normal(40 * RATE)
    peak = voice.copy()
    peak[20 * RATE : 20 * RATE + 400] *= 9
    assert active_level(peak, RATE) == pytest.approx(active_level(voice, RATE), abs=1)
