import math

import numpy as np
import pesq
import pystoi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesep.separation.audio.files import resample
from spikesep.separation.scoring import metrics
from spikesep.separation.scoring.metrics import (
    UndefinedMetricError,
    best_permutation,
    score_utterance,
)

RATE = 8000


def speechlike(seed: int, seconds: float = 1.5) -> np.ndarray:
    """Return a few bands of noise with slow envelopes, float64 [samples]."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE)
    time = np.arange(n) / RATE
    bands = [
        rng.uniform(0.3, 1)
        * np.sin(2 * np.pi * (f * time + 0.02 * np.cumsum(rng.normal(size=n)) / RATE * f))
        for f in rng.uniform(200, 3000, size=6)
    ]
    envelope = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * time + rng.uniform(0, 6)), 0, 1)
    return 0.1 * (np.sum(bands, axis=0) + 0.3 * rng.normal(size=n)) * (envelope + 0.01)


def si_sdr_by_loop(estimate: np.ndarray, source: np.ndarray) -> float:
    """Compute eq. 14 on zero-mean signals, one sample at a time."""
    n = len(source)
    mean_e, mean_s = math.fsum(estimate) / n, math.fsum(source) / n
    e, s = [x - mean_e for x in estimate], [x - mean_s for x in source]
    alpha = math.fsum(a * b for a, b in zip(e, s, strict=True)) / math.fsum(b * b for b in s)
    signal = math.fsum((alpha * b) ** 2 for b in s)
    noise = math.fsum((alpha * b - a) ** 2 for a, b in zip(e, s, strict=True))
    return 10 * math.log10(signal / noise)


@given(st.integers(0, 10_000), st.floats(-1, 1), st.floats(1e-3, 10))
@settings(max_examples=30, deadline=None)
def test_si_sdr_equals_eq_14_on_zero_mean_signals(seed, offset, leak):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=400) + offset
    estimate = source + leak * rng.normal(size=400) - 2 * offset
    assert metrics.si_sdr(estimate, source) == pytest.approx(
        si_sdr_by_loop(estimate, source), abs=1e-6
    )


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
@settings(max_examples=30, deadline=None)
def test_si_sdr_does_not_depend_on_the_scale_of_either_signal(seed, a, b):
    rng = np.random.default_rng(seed)
    source, estimate = rng.normal(size=300), rng.normal(size=300)
    assert metrics.si_sdr(a * estimate, -b * source) == pytest.approx(
        metrics.si_sdr(estimate, source), abs=1e-6
    )


def test_sdr_agrees_with_bss_eval_of_mir_eval():
    separation = pytest.importorskip("mir_eval.separation")
    sources = np.stack([speechlike(1), speechlike(2)])
    rng = np.random.default_rng(0)
    estimates = (
        np.stack([np.convolve(s, [1, 0.3, -0.2])[: s.size] for s in sources]) + 0.2 * sources[::-1]
    )
    estimates += 0.01 * rng.normal(size=sources.shape)
    expected = separation.bss_eval_sources(sources, estimates, compute_permutation=False)[0]
    found = [metrics.sdr(e, s) for e, s in zip(estimates, sources, strict=True)]
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_best_permutation_is_found():
    sources = np.stack([speechlike(k, 0.3) for k in range(3)])
    estimates = sources[[2, 0, 1]] + 0.01
    assert best_permutation(estimates, sources) == (1, 2, 0)
    scores = score_utterance(estimates, sources, sources.sum(0), RATE, metrics=())
    assert scores.permutation == (1, 2, 0)
    assert scores.si_sdr > 100


def test_gains_are_relative_to_the_mixture():
    sources = np.stack([speechlike(1), speechlike(2)])
    mixture = sources.sum(0)
    unprocessed = score_utterance(np.stack([mixture, mixture]), sources, mixture, RATE)
    cleaner = score_utterance(sources + 0.1 * sources[::-1], sources, mixture, RATE)
    assert unprocessed.si_sdri == pytest.approx(0)
    assert cleaner.si_sdri == pytest.approx(cleaner.si_sdr - unprocessed.si_sdr)
    for name in ("si_sdr", "sdr", "stoi"):
        assert getattr(cleaner, name) > getattr(unprocessed, name)
    assert not cleaner.undefined


def test_stoi_and_pesq_use_the_source_as_reference():
    source = speechlike(1)
    estimate = source + 0.3 * speechlike(2)
    estimate[len(source) // 2 :] *= 1e-3
    own, other = pystoi.stoi(source, estimate, RATE), pystoi.stoi(estimate, source, RATE)
    assert abs(own - other) > 1e-3
    assert metrics.stoi(estimate, source, RATE) == pytest.approx(own)
    wide = [resample(signal, RATE, 16000) for signal in (source, source + 0.3 * speechlike(2))]
    expected = [pesq.pesq(16000, wide[0], wide[1], mode) for mode in ("nb", "wb")]
    assert abs(expected[0] - expected[1]) > 1e-2
    assert metrics.pesq(wide[1], wide[0], 16000) == pytest.approx(expected[1])
    narrow = pesq.pesq(8000, source, source + 0.3 * speechlike(2), "nb")
    assert metrics.pesq(source + 0.3 * speechlike(2), source, 8000) == pytest.approx(narrow)


def test_pesq_of_a_long_signal_is_the_mean_over_its_pieces():
    source = np.concatenate([speechlike(k, 8.0) for k in range(4)])
    source[len(source) // 2 :] = 0
    estimate = source + 0.3 * speechlike(9, 32.0)
    half = len(source) // 2
    expected = metrics.pesq(estimate[:half], source[:half], RATE)
    assert metrics.pesq(estimate, source, RATE) == pytest.approx(expected)


def test_sources_without_a_voice_are_left_out():
    sources = np.stack([speechlike(1), np.zeros(len(speechlike(1))), speechlike(2)])
    estimates = sources[[2, 1, 0]] + 0.01 * speechlike(3)
    all_three = score_utterance(
        estimates, sources, sources.sum(0), RATE, has_voice=(True, False, True)
    )
    two = score_utterance(estimates[[0, 2]], sources[[0, 2]], sources.sum(0), RATE)
    assert all_three.permutation == (2, 1, 0)
    for name in ("si_sdr", "si_sdri", "sdr", "pesq", "stoi"):
        assert getattr(all_three, name) == pytest.approx(getattr(two, name))
    assert not all_three.undefined


def test_a_voice_alone_has_no_gain():
    sources = np.stack([speechlike(1), np.zeros(len(speechlike(1)))])
    for estimates, known in ((sources + 0.01 * speechlike(2), True), (sources, False)):
        scores = score_utterance(
            estimates, sources, sources[0], RATE, ["stoi"], has_voice=(True, False)
        )
        assert math.isnan(scores.si_sdri)
        assert math.isnan(scores.si_sdr) != known
        assert not scores.undefined


def test_unrequested_metrics_are_nan_without_a_reason():
    sources = np.stack([speechlike(1), speechlike(2)])
    scores = score_utterance(sources, sources, sources.sum(0), RATE, metrics=["sdr"])
    assert math.isnan(scores.pesq)
    assert math.isnan(scores.stoi)
    assert not set(scores.undefined) & {"pesq", "stoi"}


@pytest.mark.parametrize("broken", [np.zeros, np.ones], ids=["silent", "constant"])
@pytest.mark.parametrize("which", ["estimate", "source"])
def test_metrics_are_undefined_for_silent_and_constant_signals(which, broken):
    sources = np.stack([speechlike(1), speechlike(2)])
    mixture, estimates = sources.sum(0), sources + 0.1 * sources[::-1]
    (estimates if which == "estimate" else sources)[0] = broken(mixture.size)
    scores = score_utterance(estimates, sources, mixture, RATE)
    assert set(scores.undefined) == {"si_sdr", "si_sdri", "sdr", "pesq", "stoi"}
    assert math.isnan(scores.si_sdr)
    assert all(which in reason for reason in scores.undefined.values())


def test_silent_estimates_are_paired_last():
    sources = np.stack([speechlike(1), speechlike(2)])
    estimates = np.stack([np.zeros(sources.shape[1]), sources[0]])
    assert best_permutation(estimates, sources) == (1, 0)


def test_only_si_sdr_is_defined_for_very_short_signals():
    sources = np.stack([speechlike(1), speechlike(2)])[:, 2000:2300]
    scores = score_utterance(sources + 0.1 * sources[::-1], sources, sources.sum(0), RATE)
    assert math.isfinite(scores.si_sdr)
    assert set(scores.undefined) == {"sdr", "pesq", "stoi"}
    assert "1/4 of a second" in scores.undefined["pesq"]


def test_si_sdr_is_undefined_for_nonfinite_estimates():
    source = speechlike(1)
    with pytest.raises(UndefinedMetricError, match="not finite"):
        metrics.si_sdr(np.where(np.arange(source.size) == 5, np.nan, source), source)


def test_pesq_is_undefined_at_other_sample_rates():
    with pytest.raises(UndefinedMetricError, match="11025"):
        metrics.pesq(speechlike(1), speechlike(2), 11025)
