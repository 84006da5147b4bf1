from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesep.separation.objective import (
    FAINTEST,
    MAX_SILENCE_DB,
    MAX_SNR_DB,
    NegativeSiSdr,
    NegativeSnr,
)


def signals(seed, n_speakers, n=200, n_batch=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, n_batch, n_speakers, n))


def decibels(error, reference, threshold):
    return 10 * np.log10(error / reference + 10 ** (-threshold / 10))


def slow_negative_snr(estimates, sources):
    """Compute the loss in plain loops over batch, permutations and speakers."""
    best = []
    for estimate, source in zip(estimates, sources, strict=True):
        total = np.square(source.sum(0)).sum()
        found = []
        for order in permutations(range(len(source))):
            losses = []
            for own, other in zip(source, (estimate[k] for k in order), strict=True):
                error = np.square(other - own).sum()
                if own.any():
                    scaled = own * (own @ other) / (own @ own)
                    distortion = np.square(other - scaled).sum() + FAINTEST * total
                    target = np.square(scaled).sum() + FAINTEST * total
                    snr = decibels(error, np.square(own).sum(), MAX_SNR_DB)
                    losses.append((snr + decibels(distortion, target, MAX_SNR_DB)) / 2)
                else:
                    losses.append(decibels(error, total, MAX_SILENCE_DB))
            found.append(np.mean(losses))
        best.append(min(found))
    return np.mean(best)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    n_speakers=st.integers(1, 3),
    gain=st.floats(1e-3, 10),
    n_absent=st.integers(0, 2),
)
def test_negative_snr_equals_plain_loops(seed, n_speakers, gain, n_absent):
    noise, sources = signals(seed, n_speakers)
    sources[:, : min(n_absent, n_speakers - 1)] = 0
    estimates = np.roll(sources, 1, axis=1) + gain * noise
    found = NegativeSnr()(torch.from_numpy(estimates), torch.from_numpy(sources))
    np.testing.assert_allclose(float(found), slow_negative_snr(estimates, sources), rtol=1e-6)


def test_perfect_estimates_reach_the_thresholds_in_any_order():
    _, sources = signals(0, 3)
    sources[:, 1] = 0
    loss = NegativeSnr()(torch.from_numpy(sources[:, [2, 0, 1]]), torch.from_numpy(sources))
    expected = -(2 * MAX_SNR_DB + MAX_SILENCE_DB) / 3
    assert float(loss) == pytest.approx(expected, rel=1e-3)


def test_a_voice_in_the_track_of_an_absent_one_costs_as_much_as_it_is_loud():
    _, sources = signals(0, 2)
    sources[:, 1] = 0
    leaking = sources + [[[0], [0.1]]] * sources[:, :1]
    loss = NegativeSnr()(torch.from_numpy(leaking), torch.from_numpy(sources))
    expected = (-MAX_SNR_DB + decibels(0.01, 1, MAX_SILENCE_DB)) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-3)


def test_a_silent_output_is_rewarded_for_the_first_of_its_voice():
    _, sources = (torch.from_numpy(part) for part in signals(0, 2))
    silent, faint, loud = (
        float(NegativeSnr()(torch.stack([sources.sum(1), level * sources[:, 1]], 1), sources))
        for level in (0.0, 0.01, 1.0)
    )
    assert faint < silent - 6
    assert loud < faint - 6


def test_scale_matters_to_the_snr_alone():
    noise, sources = (torch.from_numpy(part) for part in signals(0, 2))
    estimates = sources + 0.1 * noise
    si_sdr, snr = NegativeSiSdr(), NegativeSnr()
    assert float(si_sdr(2 * estimates, sources)) == pytest.approx(float(si_sdr(estimates, sources)))
    assert float(snr(2 * estimates, sources)) > float(snr(estimates, sources)) + 9  # half of 20


def test_silent_mixtures_have_a_finite_loss_and_gradient():
    estimates = torch.randn(1, 2, 50, requires_grad=True)
    loss = NegativeSnr()(estimates, torch.zeros(1, 2, 50))
    loss.backward()
    assert loss.isfinite()
    assert loss < 100
    assert estimates.grad.isfinite().all()
