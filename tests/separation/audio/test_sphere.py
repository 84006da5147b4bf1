import io

import numpy as np
import pytest
import soundfile
from helpers.sound.shorten import sphere_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import open_audio, read_audio_at, read_channels, read_length

CODINGS = ["pcm", "pcm,embedded-shorten-v1.1", "pcm,embedded-shorten-v2.00"]


def noise(n=5000, seed=0):
    return np.random.default_rng(seed).normal(0, 3000, n).astype(np.int16)


def pcm_of(path):
    return np.rint(read_channels(path)[0] * 32768).astype(np.int16)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("byte_format", ["01", "10"])
def test_every_sample_is_read_in_each_coding_and_byte_order(tmp_path, coding, byte_format):
    path = tmp_path / "x.wv1"
    path.write_bytes(sphere_bytes(noise(), coding, byte_format))
    channels, rate = read_channels(path)
    assert rate == 16000
    np.testing.assert_array_equal(channels[0] * 32768, noise())
    assert read_length(path) == (5000, 16000)


@settings(max_examples=30)
@given(arrays(np.int16, st.integers(1, 700)), st.sampled_from(CODINGS))
def test_any_signal_round_trips(tmp_path_factory, pcm, coding):
    path = tmp_path_factory.mktemp("x") / "x.wv1"
    path.write_bytes(sphere_bytes(pcm, coding))
    np.testing.assert_array_equal(pcm_of(path), pcm[None])


def test_uncompressed_files_match_libsndfile(tmp_path):
    path = tmp_path / "x.wv1"
    path.write_bytes(sphere_bytes(noise(), "pcm"))
    np.testing.assert_array_equal(soundfile.read(path, dtype="int16")[0], pcm_of(path)[0])


@pytest.mark.parametrize("coding", CODINGS)
def test_truncated_files_are_named(tmp_path, coding):
    path = tmp_path / "x.wv1"
    whole = sphere_bytes(noise(), coding)
    for keep in (len(whole) * 2 // 3, 1030, 700, 10):
        path.write_bytes(whole[:keep])
        with pytest.raises(SpikeSepError, match=r"x\.wv1") as caught:
            read_channels(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("faulty", "said"),
    [
        (lambda: sphere_bytes(noise(), checksum=1), "checksum"),
        (lambda: sphere_bytes(noise(), coding="ulaw,embedded-shorten-v2.00"), "sph2pipe"),
        (lambda: sphere_bytes(noise()).replace(b"sample_rate", b"sample_rote"), "sample_rate"),
        (lambda: sphere_bytes(noise()).replace(b"end_head", b"end_haed"), "no end"),
    ],
    ids=["checksum", "coding", "field", "end"],
)
def test_invalid_files_are_one_line_errors(tmp_path, faulty, said):
    path = tmp_path / "x.wv1"
    path.write_bytes(faulty())
    with pytest.raises(SpikeSepError, match=said) as caught:
        read_channels(path)
    assert str(path) in str(caught.value)


def test_unexpected_sample_rate_is_an_error(tmp_path):
    path = tmp_path / "x.wv1"
    path.write_bytes(sphere_bytes(noise(), rate=8000))
    with pytest.raises(SpikeSepError, match=r"x\.wv1: is at 8000 Hz, the corpus at 16000"):
        read_audio_at(path, 16000)


@pytest.mark.parametrize(
    ("coding", "kind"), [("ulaw", "ULAW"), ("mu-law", "ULAW"), ("alaw", "ALAW")]
)
def test_telephone_speech_in_stereo_is_read(tmp_path, coding, kind):
    """Switchboard has two interleaved channels of 8 bits."""
    left, right = noise(4000, 0), noise(4000, 1)
    coded = io.BytesIO()
    soundfile.write(coded, np.stack([left, right], axis=1), 8000, format="RAW", subtype=kind)
    fields = "channel_count -i 2\nsample_count -i 4000\nsample_rate -i 8000\nsample_n_bytes -i 1\n"
    fields += f"sample_coding -s{len(coding)} {coding}\n"
    path = tmp_path / "sw.sph"
    path.write_bytes(
        f"NIST_1A\n   1024\n{fields}end_head\n".encode().ljust(1024) + coded.getvalue()
    )
    channels, rate = read_channels(path)
    assert (rate, channels.shape) == (8000, (2, 4000))
    for found, sent in zip(channels, (left, right), strict=True):
        assert np.corrcoef(found, sent)[0, 1] > 0.999
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SpikeSepError, match=r"sw\.sph: cut off, 3950 of 4000 samples"):
        read_channels(path)


def test_header_without_sample_count_is_accepted(tmp_path):
    path = tmp_path / "x.sph"
    path.write_bytes(sphere_bytes(noise()).replace(b"sample_count -i", b"sample_xount -i"))
    np.testing.assert_array_equal(pcm_of(path)[0], noise())


def test_uncounted_samples_are_reported(tmp_path):
    path = tmp_path / "x.sph"
    path.write_bytes(
        sphere_bytes(noise(), count=500, checksum=int(noise()[:500].sum(dtype=np.int64)) % 65536)
    )
    with pytest.warns(UserWarning, match=r"x\.sph: 4500 samples more than its header counts"):
        np.testing.assert_array_equal(pcm_of(path)[0], noise()[:500])


@pytest.mark.parametrize("coding", ["pcm", "pcm,embedded-shorten-v2.00"])
def test_long_files_are_read_in_blocks(tmp_path, coding):
    path = tmp_path / "x.wv1"
    path.write_bytes(sphere_bytes(noise(300_000), coding))
    assert next(open_audio(path).blocks).shape[1] < 300_000
