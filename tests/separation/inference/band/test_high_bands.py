"""The band above the network's: sum, shares, blocks, and every way through the package."""

import io
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from helpers.separators import tiny_separator
from helpers.tracks import tiny_embedder
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, sosfilt

from spikesep.separation.audio.files import AudioStream, open_audio
from spikesep.separation.audio.resampling import resample
from spikesep.separation.inference.band.high_bands import HighBands
from spikesep.separation.inference.in_memory import Model
from spikesep.separation.inference.live import separate_live
from spikesep.separation.inference.on_disk import separate_sound
from spikesep.separation.inference.streaming import Stream

RATES = [8001, 11025, 16000, 22050, 44100, 48000]
SEPARATOR = tiny_separator("fixed", has_norm_statistics=True)
with torch.no_grad():  # its voices then correlate with the mixture, as a trained network's do
    for parameter in SEPARATOR.decoder.parameters():
        parameter.neg_()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def high_of(mixture, rate):
    low = resample(resample(mixture, rate, 8000), 8000, rate)
    return mixture - low[..., : mixture.shape[-1]]


def widen(bands, voices, mixture, sizes):
    parts, start, k = [], 0, 0
    while start < len(mixture):
        stop = start + sizes[k % len(sizes)]
        parts.append(bands.push(voices[:, start:stop], mixture[start:stop]))
        start, k = stop, k + 1
    return np.concatenate([*parts, bands.flush()], axis=1)


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from(RATES),
    n_voices=st.integers(1, 4),
    n=st.integers(0, 9000),
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=4),
)
def test_high_bands_add_up_to_that_of_the_mixture_in_blocks_of_any_size(rate, n_voices, n, sizes):
    voices, mixture = noise(n_voices, n, seed=n), noise(n, seed=n + 1)
    whole = widen(HighBands(n_voices, rate, 8000), voices, mixture, [max(1, n)])
    blocks = widen(HighBands(n_voices, rate, 8000), voices, mixture, sizes)
    assert whole.shape == voices.shape
    np.testing.assert_array_equal(whole, blocks)
    np.testing.assert_allclose((whole - voices).sum(0), high_of(mixture, rate), rtol=0, atol=1e-6)


def reference_shares(voices, rate):
    """Shares at the borders of cells of 10 ms, border by border and voice by voice."""
    cell, n_cells = rate // 100, voices.shape[1] // (rate // 100)
    signals = [voices.astype(float)] + [
        sosfilt(butter(4, band, "bandpass", fs=rate, output="sos"), voices)
        for band in ((100, 1000), (1000, 3000), (3000, 3800))
    ]

    def power(signal, voice, k):
        k = min(max(k, 0), n_cells - 1)
        return np.mean(signal[voice, k * cell : (k + 1) * cell] ** 2)

    shares, held = [], np.zeros(len(voices))
    for border in range(n_cells + 1):
        own = np.array(
            [
                [(power(s, v, border - 1) + power(s, v, border)) / 2 for s in signals]
                for v in range(len(voices))
            ]
        )
        held = np.maximum(own[:, 0], held * np.exp(-0.01 / 0.3))
        low, middle, upper = (own[:, 1:] + 1e-6 * held.max()).T
        odds = held / (held + 0.03 * held.max()) * low**-0.20 * middle**-0.21 * upper**0.51
        shares.append(odds / odds.sum())
    return np.array(shares).T


def test_shares_are_those_of_a_slow_reference():
    rate, cell = 16000, 160
    time = np.arange(4800) / rate
    voices = noise(3, 4800) * (1.2 + np.sin(2 * np.pi * np.array([[3], [5], [8]]) * time))
    mixture = noise(4800, seed=9)
    full = widen(HighBands(3, rate, 8000), voices, mixture, [777])
    shares, high = reference_shares(voices, rate), high_of(mixture, rate)
    at = np.arange(4800) / cell
    expected = [
        voice + np.interp(at, np.arange(31), s) * high
        for voice, s in zip(voices, shares, strict=True)
    ]
    np.testing.assert_allclose(full, expected, rtol=0, atol=2e-6)


def test_silent_voices_get_nothing_while_another_speaks():
    voices, mixture = noise(2, 8000), noise(8000, seed=1)
    voices[1] = 0
    full = widen(HighBands(2, 16000, 8000), voices, mixture, [500])
    assert not full[1].any()
    np.testing.assert_allclose(full[0] - voices[0], high_of(mixture, 16000), atol=1e-6)


@pytest.mark.parametrize("gated", [True, False])
def test_where_all_are_silent_a_gate_stays_shut_and_others_share_equally(gated):
    mixture = noise(8000)
    full = widen(HighBands(2, 16000, 8000, gated=gated), np.zeros((2, 8000)), mixture, [500])
    expected = np.zeros_like(full) if gated else np.stack([high_of(mixture, 16000) / 2] * 2)
    np.testing.assert_allclose(full, expected, atol=1e-6)


def test_a_fricative_gets_the_high_band_and_a_louder_vowel_does_not():
    rng, rate = np.random.default_rng(0), 16000
    vowel = sum(np.sin(2 * np.pi * f * np.arange(rate) / rate) for f in (200, 400, 900, 2500))
    fricative = sosfilt(butter(4, 3000, "high", fs=rate, output="sos"), rng.normal(0, 1, rate))
    voices = np.stack([0.2 * vowel, 0.05 * fricative]).astype(np.float32)
    full = widen(HighBands(2, rate, 8000), voices, voices.sum(0), [rate])
    energy = np.square(full - voices).sum(1)
    assert np.square(voices[0]).sum() > 10 * np.square(voices[1]).sum()
    assert energy[1] > 5 * energy[0]


@pytest.mark.parametrize("tracks", ["off", "auto"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_recording_keeps_the_networks_voices_below_and_its_own_band_above(rate, tracks):
    mixture = noise(rate)
    found = [
        Model(SEPARATOR, embedder=tiny_embedder(), band=band).separate_recording(
            mixture, rate, tracks=tracks
        )
        for band in ("full", "network")
    ]
    full, network = (each.estimates / each.scale for each in found)
    error, whole = (
        np.square(np.abs(np.fft.rfft(signal * np.hanning(rate))[..., :3200])).sum()
        for signal in (full - network, mixture)
    )
    assert error < 1e-5 * whole  # the ripple of the resampling filter
    if tracks == "off":
        np.testing.assert_allclose(
            (full - network).sum(0), high_of(mixture, rate), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("level", ["match-mix", "peak", "none"])
@pytest.mark.parametrize("tracks", ["off", "auto"])
def test_disk_gives_what_memory_gives(tmp_path, level, tracks):
    soundfile.write(tmp_path / "a.wav", noise(20000, 2) * 3, 16000, subtype="FLOAT")
    model = Model(SEPARATOR, embedder=tiny_embedder())
    samples = soundfile.read(tmp_path / "a.wav", dtype="float32")[0].T
    whole = model.separate_recording(samples, 16000, level, channels="each", tracks=tracks)
    found = []

    def write(n_samples, n_voices, blocks):
        found.extend(blocks)

    sound = open_audio(tmp_path / "a.wav")
    separation = separate_sound(
        model, sound, tmp_path, write, level=level, segment_seconds=0.3, channels="each",
        tracks=tracks,
    )  # fmt: skip
    voices = np.concatenate(found).T / 32768
    np.testing.assert_allclose(voices, whole.estimates.reshape(4, -1), rtol=0, atol=1e-3)
    assert separation.scale == pytest.approx(whole.scale, rel=1e-3)
    if level == "peak":
        assert np.abs(whole.estimates).max(-1).max() == pytest.approx(0.9, abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 4000), min_size=1, max_size=3), tracks=st.booleans())
def test_streams_do_not_depend_on_blocks(sizes, tracks):
    model, mixture = Model(SEPARATOR, embedder=tiny_embedder()), noise(12000)
    open_stream = model.track_stream if tracks else model.stream

    def run(sizes):
        stream, parts, start, k = open_stream(16000, 0.1), [], 0, 0
        while start < len(mixture):
            stop = start + sizes[k % len(sizes)]
            parts.append(stream.push(mixture[start:stop]))
            start, k = stop, k + 1
        return np.concatenate([*parts, stream.flush()], axis=1)

    whole = run([len(mixture)])
    assert whole.shape == (2, len(mixture))
    np.testing.assert_array_equal(run([max(size, 40) for size in sizes]), whole)


def test_stream_returns_samples_within_its_latency():
    stream, n_pushed, n_returned = Model(SEPARATOR).stream(16000, 0.1), 0, 0
    for block in np.split(noise(16000), 100):
        n_pushed += len(block)
        n_returned += stream.push(block).shape[1]
        assert n_pushed - n_returned <= stream.latency * 16000 + len(block)


def test_recordings_at_the_networks_rate_or_below_are_left_alone():
    model = Model(SEPARATOR)
    for rate in (8000, 6000):
        assert isinstance(model.stream(rate), Stream)
        expected = Model(SEPARATOR, band="network").separate(noise(8000), rate)
        np.testing.assert_array_equal(model.separate(noise(8000), rate), expected)
    with pytest.raises(ValueError, match="'full' or 'network'"):
        Model(SEPARATOR, band="wide")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("level", ["match-mix", "peak", "none"])
def test_live_voices_get_the_band_of_the_recording_and_never_clip(level):
    mixture, found = noise(32000) * 4, {}
    for band in ("full", "network"):
        blocks = iter(np.split(mixture[None], 40, axis=1))
        written = io.BytesIO()
        separate_live(
            Model(SEPARATOR, band=band),
            AudioStream(16000, 1, None, blocks),
            lambda pcm, file=written: file.write(pcm.tobytes()),
            level=level,
            block_seconds=0.1,
        )
        found[band] = np.frombuffer(written.getvalue(), "<i2").reshape(-1, 2).T / 32768
    assert found["full"].shape == found["network"].shape == (2, 32000)
    above = partial(_share_above, start=8000)
    assert above(found["full"]) > 0.1 > 0.01 > above(found["network"])


def _share_above(voices, start):
    spectrum = np.square(np.abs(np.fft.rfft(voices[:, start:])))
    edge = round(spectrum.shape[1] * 4400 / 8000)
    return spectrum[:, edge:].sum() / spectrum.sum()
