import numpy as np
import pytest
import torch
from helpers.separators import tiny_separator
from helpers.tracks import tiny_embedder

from spikesep.separation.inference.in_memory import Model

RATE = 8000


def model(n_speakers=2, tracks=True):
    separator = tiny_separator(n_speakers=n_speakers)
    return Model(separator, embedder=tiny_embedder() if tracks else None)


def talk(seconds=6.0, rate=RATE):
    rng = np.random.default_rng(0)
    n = round(seconds * rate)
    loud = np.repeat(rng.random(n // 2000 + 1) < 0.7, 2000)[:n]
    return (rng.normal(0, 0.1, n) * loud).astype(np.float32)


def streamed(stream, samples, size):
    parts = [stream.push(samples[k : k + size]) for k in range(0, len(samples), size)]
    return np.concatenate([*parts, stream.flush()], axis=1)


@pytest.mark.parametrize("n_speakers", [2, 3])
def test_tracks_have_the_length_of_the_recording(n_speakers):
    samples = talk()
    voices = model(n_speakers).separate(samples)
    assert voices.shape == (n_speakers, len(samples))
    assert np.isfinite(voices).all()


@pytest.mark.parametrize("level", ["match-mix", "peak", "none"])
def test_voices_stay_within_full_scale_at_every_level(level):
    voices = model().separate(talk() * 8, level=level)
    assert np.abs(voices).max() <= 1
    if level == "peak":
        peaks = np.abs(voices).max(1)
        np.testing.assert_allclose(peaks[peaks > 0], 0.9, rtol=1e-5)


def test_without_tracks_the_voices_are_those_of_a_model_without_embedder():
    samples = talk()
    expected = model(tracks=False).separate(samples)
    assert np.array_equal(model().separate(samples, tracks="off"), expected)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_the_length_of_segments_does_not_change_the_tracks(rate):
    samples = talk(4.0, rate)
    short, long = (model().separate(samples, rate, segment_seconds=s) for s in (0.7, 30.0))
    np.testing.assert_allclose(short, long, atol=1e-5)


def test_a_stream_gives_the_same_tracks_for_blocks_of_any_size():
    samples = talk()
    whole = streamed(model().track_stream(), samples, len(samples))
    assert whole.shape == (2, len(samples))
    for size in (160, 5000):
        np.testing.assert_allclose(
            streamed(model().track_stream(), samples, size), whole, atol=1e-6
        )


@pytest.mark.parametrize("rate", [8000, 16000])
def test_no_sample_of_a_stream_waits_longer_than_the_latency(rate):
    samples, returned = talk(8.0, rate), 0
    stream = model().track_stream(rate)
    for k in range(0, len(samples), 400):
        returned += stream.push(samples[k : k + 400]).shape[1]
        assert k + 400 - returned <= stream.latency * rate + 400


def test_a_stream_of_tensors_returns_tensors():
    stream = model().track_stream()
    assert isinstance(stream.push(torch.from_numpy(talk(5.0))), torch.Tensor)


def test_silence_is_silence():
    assert not model().separate(np.zeros(RATE, np.float32)).any()
    assert model().separate_recording(np.zeros(RATE, np.float32), RATE).turns == ((),)


def test_a_recording_of_one_sample_has_tracks():
    assert model().separate(np.full(1, 0.1, np.float32)).shape == (2, 1)


def test_each_channel_has_tracks_and_turns_of_its_own():
    both = np.stack([talk(), talk()[::-1]])
    found = model().separate_recording(both, RATE, channels="each")
    assert found.estimates.shape == (2, 2, 6 * RATE)
    alone = [model().separate_recording(channel, RATE).turns[0] for channel in both]
    assert found.turns == tuple(alone)
    assert alone[0] != alone[1]


def test_a_model_without_embedder_has_no_track_stream():
    with pytest.raises(ValueError, match="no embedder"):
        model(tracks=False).track_stream()


def test_unknown_tracks_are_refused():
    with pytest.raises(ValueError, match="tracks must be"):
        model().separate(talk(), tracks="on")
