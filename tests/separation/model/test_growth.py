from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.separators import tiny_separator

from spikesep.separation.audio.resampling import resample
from spikesep.separation.model.growth import can_grow, grow


def sounds(n, rate):
    """Return noise below 2 kHz, float32 [n] at 8 kHz, and the same at `rate`."""
    slow = np.random.default_rng(0).normal(0, 0.1, n // 2).astype(np.float32)
    low = resample(slow, 4000, 8000)
    return torch.from_numpy(low), torch.from_numpy(resample(low, 8000, rate))


@pytest.mark.parametrize(("rate", "most_db"), [(8000, -100), (16000, -18), (24000, -18)])
def test_a_grown_separator_does_the_same_to_the_old_band(rate, most_db):
    small = tiny_separator(has_norm_statistics=True)
    large = grow(
        small, replace(small.config, sample_rate=rate, kernel_size=20 * rate // 8000)
    ).eval()
    low, same = sounds(4000, rate)
    with torch.no_grad():
        before, after = small(low[None])[0], large(same[None])[0]
    expected = resample(before.numpy(), 8000, rate)
    error = np.square(after.numpy() - expected).mean() / np.square(expected).mean()
    assert 10 * np.log10(error + 1e-12) < most_db


def test_new_speakers_leave_the_old_ones_alone():
    small = tiny_separator(has_norm_statistics=True)
    large = grow(small, replace(small.config, n_speakers=3)).eval()
    mixture = torch.randn(1, 1000)
    with torch.no_grad():
        torch.testing.assert_close(large(mixture)[:, :2], small(mixture))
        assert large(mixture).shape == (1, 3, 1000)


def test_new_filters_learn():
    small = tiny_separator(has_norm_statistics=True)
    large = grow(small, replace(small.config, n_filters=24, n_speakers=3))
    large(torch.randn(2, 1000)).square().sum().backward()
    for parameter in large.parameters():
        assert parameter.grad.abs().sum() > 0
    assert large.network[0].synapse.weight.grad[:, 16:].abs().sum() > 0


@pytest.mark.parametrize(
    "sizes",
    [
        {"sample_rate": 16000},
        {"sample_rate": 12000, "kernel_size": 30},
        {"n_filters": 8},
        {"n_speakers": 1},
        {"n_channels": 16},
        {"dilations": [1, 2, 4]},
    ],
)
def test_other_sizes_cannot_grow(sizes):
    config = tiny_separator().config
    assert can_grow(config, replace(config, n_speakers=4, n_filters=20))
    assert not can_grow(config, replace(config, **sizes))
