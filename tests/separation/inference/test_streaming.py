import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from spikesep.separation.config import SeparatorConfig
from spikesep.separation.inference.separate import Model
from spikesep.separation.inference.streaming import Resampler
from spikesep.separation.model.separator import Separator
from spikesep.spiking.conversion.fixed_point import to_fixed_point
from spikesep.spiking.signal import Coding

RATES = [8000, 11025, 12000, 16000, 22050, 44100, 48000, 96000, 192000]


def make_model(kind):
    torch.manual_seed(0)
    separator = Separator(
        SeparatorConfig(n_filters=16, n_channels=12, dilations=[1, 2, 4], identity="sum")
    )
    for _ in range(3):
        separator(torch.randn(2, 800))
    separator.eval()
    if kind == "snn":
        for layer in separator.network.layers.values():
            layer.convert(0.2, Coding(8))
            layer.freeze()
        to_fixed_point(separator.network, [separator.encode(torch.randn(1, 4000))[0]])
    return Model(separator)


MODELS = {kind: make_model(kind) for kind in ("ann", "snn")}


def noise(n, seed=0, channels=None):
    shape = n if channels is None else (channels, n)
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def cut(wave, sizes):
    """Blocks of these sizes, over and over."""
    blocks, start, k = [], 0, 0
    while start < wave.shape[-1]:
        stop = start + sizes[k % len(sizes)]
        blocks.append(wave[..., start:stop])
        start, k = stop, k + 1
    return blocks


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["ann", "snn"]),
    rate=st.sampled_from(RATES),
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=4),
    seconds=st.floats(0, 0.6),
    block_seconds=st.floats(0.02, 0.4),
)
def test_blocks_of_any_size_at_any_rate_give_what_one_piece_gives(
    kind, rate, sizes, seconds, block_seconds
):
    model, wave = MODELS[kind], noise(max(1, int(seconds * rate)), seed=rate)
    stream = model.stream(rate, block_seconds)
    pieces = [stream.push(block) for block in cut(wave, [max(size, rate // 400) for size in sizes])]
    streamed = np.concatenate([*pieces, stream.flush()], axis=1)
    whole = model.separate_recording(wave, rate, "none", segment_seconds=100.0)
    assert streamed.shape == (2, len(wave))
    np.testing.assert_allclose(streamed * whole.scale, whole.estimates, rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    rates=st.tuples(st.sampled_from([*RATES, 9973]), st.sampled_from(RATES)),
    sizes=st.lists(st.integers(0, 4000), min_size=1, max_size=5),
    n=st.integers(1, 20000),
)
def test_resampling_in_blocks_is_resampling_in_one_piece_to_the_bit(rates, sizes, n):
    wave = noise(n)
    resampler = Resampler(*rates)
    blocks = cut(wave, [*sizes, 1000])
    made = np.concatenate([*(resampler.push(block) for block in blocks), resampler.flush()])
    whole = wave if rates[0] == rates[1] else resample_poly(wave, rates[1], rates[0])
    np.testing.assert_array_equal(made, whole)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_estimates_come_within_the_latency_that_is_told(rate):
    stream, given_back = MODELS["ann"].stream(rate, 0.1), 0
    for k, block in enumerate(cut(noise(rate), [97]), start=1):
        given_back += stream.push(block).shape[1]
        assert given_back >= 97 * k - 97 - stream.latency * rate
    assert given_back > 0
    assert stream.latency < 0.25


def test_single_samples_can_be_pushed():
    wave = noise(700)
    stream = MODELS["snn"].stream(block_seconds=0.02)
    voices = np.concatenate(
        [*(stream.push(wave[k : k + 1]) for k in range(700)), stream.flush()], axis=1
    )
    whole = MODELS["snn"].separate_recording(wave, 8000, "none")
    np.testing.assert_allclose(voices * whole.scale, whole.estimates, rtol=0, atol=1e-5)


def test_the_size_of_what_is_pushed_changes_no_bit():
    wave, found = noise(9000), []
    for size in (1, 333, 9000):
        stream = MODELS["snn"].stream(16000, 0.1)
        found.append(
            np.concatenate([*(stream.push(b) for b in cut(wave, [size])), stream.flush()], axis=1)
        )
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_channels_are_averaged_and_torch_comes_back_as_torch():
    stereo = noise(3000, channels=2)
    stream, other = (MODELS["ann"].stream(block_seconds=0.1) for _ in range(2))
    out = stream.push(torch.from_numpy(stereo))
    assert isinstance(out, torch.Tensor)
    np.testing.assert_allclose(out.numpy(), other.push(stereo.mean(0)), atol=1e-7)


def test_cost_is_counted_as_for_a_file():
    wave, model = noise(4000), MODELS["snn"]
    stream = model.stream(8000, 0.1)
    stream.push(wave)
    stream.flush()
    assert stream.cost == model.separate_recording(wave, 8000, segment_seconds=0.1).cost


@pytest.mark.parametrize(
    "bad", [np.array([0.1, np.nan]), np.array([np.inf]), np.array([1e30]), np.zeros((2, 3, 4))]
)
def test_what_is_no_block_is_refused(bad):
    with pytest.raises(ValueError, match="recording"):
        MODELS["ann"].stream().push(bad)


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [(10, 1), (2_000_000, 1), (8000.5, 1), (8000, 0), (8000, np.inf), (8000, np.nan)],
)
def test_streams_that_cannot_be_are_refused(rate, seconds):
    with pytest.raises(ValueError, match=r"sample rate|block_seconds"):
        MODELS["ann"].stream(rate, seconds)


def test_a_flushed_stream_takes_no_more():
    stream = MODELS["ann"].stream()
    assert stream.flush().shape == (2, 0)
    with pytest.raises(ValueError, match="flushed"):
        stream.push(noise(10))
