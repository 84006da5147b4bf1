import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shorten import sphere_bytes

from spikesep.errors import SpikeSepError
from spikesep.separation.audio import read_audio_at, read_channels, read_length
from spikesep.separation.sphere import read_sphere

CODINGS = ["pcm", "pcm,embedded-shorten-v1.1", "pcm,embedded-shorten-v2.00"]


def noise(n=5000, seed=0):
    return np.random.default_rng(seed).normal(0, 3000, n).astype(np.int16)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("byte_format", ["01", "10"])
def test_every_sample_comes_back(tmp_path, coding, byte_format):
    path = tmp_path / "x.wv1"
    path.write_bytes(sphere_bytes(noise(), coding, byte_format))
    channels, rate = read_channels(path)
    assert rate == 16000
    np.testing.assert_array_equal(channels[0] * 32768, noise())
    assert read_length(path) == (5000, 16000)


@settings(max_examples=30)
@given(arrays(np.int16, st.integers(1, 700)), st.sampled_from(CODINGS))
def test_any_signal_comes_back(tmp_path_factory, pcm, coding):
    path = tmp_path_factory.mktemp("x") / "x.wv1"
    path.write_bytes(sphere_bytes(pcm, coding))
    np.testing.assert_array_equal(read_sphere(path)[0], pcm[None])


def test_libsndfile_reads_the_same_of_what_is_not_compressed(tmp_path):
    path = tmp_path / "x.wv1"
    path.write_bytes(sphere_bytes(noise(), "pcm"))
    np.testing.assert_array_equal(soundfile.read(path, dtype="int16")[0], read_sphere(path)[0][0])


@pytest.mark.parametrize("coding", CODINGS)
def test_a_file_that_lost_its_end_is_named(tmp_path, coding):
    path = tmp_path / "x.wv1"
    whole = sphere_bytes(noise(), coding)
    for keep in (len(whole) * 2 // 3, 1030, 700, 10):
        path.write_bytes(whole[:keep])
        with pytest.raises(SpikeSepError, match=r"x\.wv1") as caught:
            read_sphere(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("faulty", "said"),
    [
        (lambda: sphere_bytes(noise(), checksum=1), "checksum"),
        (lambda: sphere_bytes(noise(), coding="ulaw"), "ulaw"),
        (lambda: sphere_bytes(noise()).replace(b"sample_rate", b"sample_rote"), "sample_rate"),
        (lambda: sphere_bytes(noise()).replace(b"end_head", b"end_haed"), "no end"),
    ],
    ids=["checksum", "coding", "field", "end"],
)
def test_a_faulty_file_is_one_line(tmp_path, faulty, said):
    path = tmp_path / "x.wv1"
    path.write_bytes(faulty())
    with pytest.raises(SpikeSepError, match=said) as caught:
        read_channels(path)
    assert str(path) in str(caught.value)


def test_another_rate_than_the_corpus_has_is_named(tmp_path):
    path = tmp_path / "x.wv1"
    path.write_bytes(sphere_bytes(noise(), rate=8000))
    with pytest.raises(SpikeSepError, match=r"x\.wv1: is at 8000 Hz, the corpus at 16000"):
        read_audio_at(path, 16000)
