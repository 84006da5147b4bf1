import numpy as np
import pytest
import torch
from helpers.separators import tiny_separator
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from spikesep.separation.audio.resampling import Resampler
from spikesep.separation.inference.in_memory import Model

RATES = [8000, 11025, 12000, 16000, 22050, 44100, 48000, 96000, 192000]


MODELS = {
    kind: Model(
        tiny_separator(
            "fixed" if kind == "snn" else "ann",
            has_norm_statistics=True,
            dilations=[1, 2, 4],
            identity="sum",
        ),
        band="network",
    )
    for kind in ("ann", "snn")
}


def noise(n, seed=0, channels=None):
    shape = n if channels is None else (channels, n)
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def split(wave, sizes):
    """Split a signal into blocks of these sizes, repeatedly."""
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
def test_stream_equals_separation_in_one_piece(kind, rate, sizes, seconds, block_seconds):
    model, wave = MODELS[kind], noise(max(1, int(seconds * rate)), seed=rate)
    stream = model.stream(rate, block_seconds)
    pieces = [
        stream.push(block) for block in split(wave, [max(size, rate // 400) for size in sizes])
    ]
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
def test_block_wise_resampling_is_exact(rates, sizes, n):
    wave = noise(n)
    resampler = Resampler(*rates)
    blocks = split(wave, [*sizes, 1000])
    made = np.concatenate([*(resampler.push(block) for block in blocks), resampler.flush()])
    whole = wave if rates[0] == rates[1] else resample_poly(wave, rates[1], rates[0])
    np.testing.assert_array_equal(made, whole)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_estimates_are_within_the_stated_latency(rate):
    stream, given_back = MODELS["ann"].stream(rate, 0.1), 0
    for k, block in enumerate(split(noise(rate), [97]), start=1):
        given_back += stream.push(block).shape[1]
        assert given_back >= 97 * k - 97 - stream.latency * rate
    assert given_back > 0
    assert stream.latency < 0.3


def test_blocks_can_be_single_samples():
    wave = noise(700)
    stream = MODELS["snn"].stream(block_seconds=0.02)
    voices = np.concatenate(
        [*(stream.push(wave[k : k + 1]) for k in range(700)), stream.flush()], axis=1
    )
    whole = MODELS["snn"].separate_recording(wave, 8000, "none")
    np.testing.assert_allclose(voices * whole.scale, whole.estimates, rtol=0, atol=1e-5)


def test_estimates_do_not_depend_on_block_sizes():
    wave, found = noise(9000), []
    for size in (1, 333, 9000):
        stream = MODELS["snn"].stream(16000, 0.1)
        found.append(
            np.concatenate([*(stream.push(b) for b in split(wave, [size])), stream.flush()], axis=1)
        )
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_channels_are_averaged_and_tensors_return_tensors():
    stereo = noise(3000, channels=2)
    stream, other = (MODELS["ann"].stream(block_seconds=0.1) for _ in range(2))
    out = stream.push(torch.from_numpy(stereo))
    assert isinstance(out, torch.Tensor)
    np.testing.assert_allclose(out.numpy(), other.push(stereo.mean(0)), atol=1e-7)


def test_cost_equals_that_of_a_recording_in_memory():
    wave, model = noise(4000), MODELS["snn"]
    stream = model.stream(8000, 0.1)
    stream.push(wave)
    stream.flush()
    assert stream.cost == model.separate_recording(wave, 8000, segment_seconds=0.1).cost


@pytest.mark.parametrize(
    "bad", [np.array([0.1, np.nan]), np.array([np.inf]), np.array([1e30]), np.zeros((2, 3, 4))]
)
def test_invalid_blocks_are_rejected(bad):
    with pytest.raises(ValueError, match="recording"):
        MODELS["ann"].stream().push(bad)


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [(10, 1), (2_000_000, 1), (8000.5, 1), (8000, 0), (8000, np.inf), (8000, np.nan)],
)
def test_invalid_rates_and_block_lengths_are_rejected(rate, seconds):
    with pytest.raises(ValueError, match=r"sample rate|block_seconds"):
        MODELS["ann"].stream(rate, seconds)


def test_flushed_stream_rejects_blocks():
    stream = MODELS["ann"].stream()
    assert stream.flush().shape == (2, 0)
    with pytest.raises(ValueError, match="flushed"):
        stream.push(noise(10))
