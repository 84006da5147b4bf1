import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesep.errors import SpikeSepError
from spikesep.spiking.conversion.threshold import (
    MOST_AT_ONCE,
    N_BINS,
    ActivationHistogram,
    choose_threshold,
)
from spikesep.spiking.signal import Coding


def histogram(*batches):
    h = ActivationHistogram()
    for batch in batches:
        h.update(batch)
    return h


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 5),
    st.sampled_from([50.0, 90.0, 99.0, 99.9, 100.0]),
    st.floats(1e-3, 1e3),
)
def test_a_percentile_over_streamed_batches_is_that_of_all_activations(seed, n_batches, p, scale):
    rng = np.random.default_rng(seed)
    values = np.maximum(rng.normal(0, scale, (n_batches, 999)), 0).astype(np.float32)
    expected = np.percentile(values, p)
    got = histogram(*torch.from_numpy(values)).percentile(p)
    spacing = 2 * values.max() / N_BINS  # the range may have doubled beyond the largest value
    ranked = np.sort(values.ravel())
    rank = p / 100 * (ranked.size - 1)
    low, high = ranked[max(0, int(rank) - 1)], ranked[min(ranked.size - 1, int(rank) + 2)]
    assert low - spacing <= got <= high + spacing, (expected, got)


def test_the_order_and_size_of_batches_do_not_matter():
    values = torch.rand(6, 100) ** 2
    values[5] *= 40
    one, other = histogram(*values), histogram(values.flip(0).reshape(3, 200))
    for p in (50, 99):
        assert one.percentile(p) == pytest.approx(other.percentile(p), abs=80 / N_BINS)


def test_the_clipped_share_is_what_lies_above():
    h = histogram(torch.linspace(0, 1, 10_001))
    assert h.clipped_share(h.percentile(99)) == pytest.approx(0.01, abs=2e-3)
    assert h.clipped_share(h.percentile(100)) == 0


def test_the_coding_error_is_that_of_clipping_and_rounding():
    values = torch.rand(100_000).double() ** 3
    h = histogram(values)
    for bound, n_steps in ((1.0, 8), (0.5, 8), (0.5, 32)):
        unit = bound / n_steps
        coded = (values / unit).round().clamp(0, n_steps) * unit
        assert h.coding_error(bound, Coding(n_steps)) == pytest.approx(
            float((coded - values).square().mean().sqrt()), rel=1e-2
        )


def test_few_steps_want_a_lower_percentile_than_many():
    torch.manual_seed(0)
    h = histogram(torch.distributions.Exponential(1.0).sample((200_000,)))
    few, some, many = (h.best_percentile(Coding(n_steps)) for n_steps in (4, 32, 1024))
    assert few < some <= many


def test_what_no_relu_gives_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        histogram(torch.tensor([0.5, -0.1]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(SpikeSepError, match="contain NaN or Inf"):
        histogram(torch.tensor([0.5, bad]))


def test_a_silent_layer_has_bound_zero():
    assert histogram(torch.zeros(10)).percentile(99.9) == 0


def test_a_batch_of_any_size_is_counted_whole():
    h = histogram(torch.full((MOST_AT_ONCE + 999,), 0.5), torch.zeros(0))
    assert float(h.counts.sum()) == MOST_AT_ONCE + 999


def test_the_threshold_is_the_percentile_over_the_window():
    values = torch.linspace(0, 1, 10_001)
    choice = choose_threshold([values[:5000], values[5000:]], 99.0, Coding(8))
    assert choice.upper_bound == pytest.approx(0.99, abs=1e-3)
    assert choice.clipped_share == pytest.approx(0.01, abs=1e-3)


def test_a_percentile_that_falls_among_the_zeros_is_refused():
    values = torch.zeros(1000)
    values[:5] = torch.rand(5) + 0.5
    with pytest.raises(SpikeSepError, match="percentile 99: the layer is silent"):
        choose_threshold([values], 99.0, Coding(8))
    assert choose_threshold([values], "auto", Coding(8)).upper_bound >= 0.5


def test_one_step_takes_a_bound_near_what_active_neurons_have():
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(20000, generator=generator).relu()
    one, eight = (choose_threshold([activations], "auto", Coding(n)).percentile for n in (1, 8))
    assert one < 97
    assert eight > 98
