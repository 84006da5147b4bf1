from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesep.separation.objective import MAX_SNR_DB, NegativeSiSdr, NegativeSnr


def signals(seed, n_speakers, n=200, n_batch=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, n_batch, n_speakers, n))


def slow_negative_snr(estimates, sources):
    """Compute the loss in plain loops over batch, permutations and speakers."""
    best = []
    for estimate, source in zip(estimates, sources, strict=True):
        total = np.square(source.sum(0)).sum()
        found = []
        for order in permutations(range(len(source))):
            loss = 0.0
            for s, k in enumerate(order):
                own = np.square(source[s]).sum()
                reference = own if own > 0 else total
                error = np.square(estimate[k] - source[s]).sum()
                loss += 10 * np.log10((error + 10 ** (-MAX_SNR_DB / 10) * reference) / reference)
            found.append(loss / len(source))
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


def test_perfect_estimates_reach_the_threshold_in_any_order():
    _, sources = signals(0, 3)
    sources[:, 1] = 0
    loss = NegativeSnr()(torch.from_numpy(sources[:, [2, 0, 1]]), torch.from_numpy(sources))
    assert float(loss) == pytest.approx(-MAX_SNR_DB)


def test_a_voice_in_the_track_of_an_absent_one_costs_as_much_as_it_is_loud():
    _, sources = signals(0, 2)
    sources[:, 1] = 0
    leaking = sources + [[[0], [0.1]]] * sources[:, :1]
    loss = NegativeSnr()(torch.from_numpy(leaking), torch.from_numpy(sources))
    expected = (-MAX_SNR_DB + 10 * np.log10(0.01 + 10 ** (-MAX_SNR_DB / 10))) / 2
    assert float(loss) == pytest.approx(expected)


def test_scale_matters_to_the_snr_alone():
    noise, sources = (torch.from_numpy(part) for part in signals(0, 2))
    estimates = sources + 0.1 * noise
    si_sdr, snr = NegativeSiSdr(), NegativeSnr()
    assert float(si_sdr(2 * estimates, sources)) == pytest.approx(float(si_sdr(estimates, sources)))
    assert float(snr(2 * estimates, sources)) > float(snr(estimates, sources)) + 15


def test_silent_mixtures_have_a_finite_loss_and_gradient():
    estimates = torch.randn(1, 2, 50, requires_grad=True)
    loss = NegativeSnr()(estimates, torch.zeros(1, 2, 50))
    loss.backward()
    assert loss.isfinite()
    assert loss < 100
    assert estimates.grad.isfinite().all()
