import io

import numpy as np
import pytest
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import read_channels
from spikesep.separation.audio.wav import read_samples, read_wav_header, wav_header


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT"])
@pytest.mark.parametrize("channels", [1, 3])
def test_wav_stream_equals_the_file_read_by_libsndfile(subtype, channels):
    samples = np.random.default_rng(0).uniform(-1, 1, (5000, channels))
    file = io.BytesIO()
    soundfile.write(
        file, samples, 44100, format="WAV" if channels == 1 else "WAVEX", subtype=subtype
    )
    expected, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", always_2d=True)
    stream = io.BufferedReader(io.BytesIO(file.getvalue()), 999)
    rate, n, kind, size = read_wav_header(stream)
    found = np.concatenate(list(read_samples(stream, n, kind, size)), axis=1)
    assert (rate, n) == (44100, channels)
    np.testing.assert_array_equal(found, expected.T)


def test_large_chunk_before_the_samples_is_skipped():
    file = io.BytesIO()
    soundfile.write(file, np.full(100, 0.5), 8000, format="WAV", subtype="PCM_16")
    content, size = file.getvalue(), 3 * 2**20 + 1
    chunk = b"id3 " + size.to_bytes(4, "little") + b"d" * (size + 1)
    stream = io.BufferedReader(io.BytesIO(content[:36] + chunk + content[36:]))
    _, n, kind, size = read_wav_header(stream)
    (found,) = read_samples(stream, n, kind, size)
    np.testing.assert_array_equal(found, np.full((1, 100), 0.5))


@pytest.mark.parametrize("size", [0, 2**31 - 2**12, 2**31, 2**32 - 1])
def test_placeholder_sizes_mean_unknown_length(tmp_path, size):
    """sox, arecord and ffmpeg write such sizes to pipes, and saved pipes keep them."""
    soundfile.write(tmp_path / "a.wav", np.full(100, 0.5), 8000, subtype="PCM_16")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = min(size + 36, 2**32 - 1).to_bytes(4, "little")
    content[40:44] = size.to_bytes(4, "little")
    assert read_wav_header(io.BytesIO(content))[3] is None
    (tmp_path / "a.wav").write_bytes(content)
    if size:  # for libsndfile, 0 means empty
        assert read_channels(tmp_path / "a.wav")[0].shape == (1, 100)


@pytest.mark.parametrize(
    "content",
    [b"", b"RIFF", b"hello world, hello", wav_header(8000, None)[:30], b"RIFF\0\0\0\0AVI LIST"],
)
def test_other_streams_are_rejected(content):
    with pytest.raises(SpikeSepError, match="standard input"):
        read_wav_header(io.BytesIO(content))


def test_header_equals_that_of_libsndfile_and_is_rf64_beyond_4_gib():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(10), 8000, format="WAV", subtype="PCM_16")
    assert wav_header(8000, 10) == file.getvalue()[:44]
    long = wav_header(192_000, 3 * 2**30)
    with soundfile.SoundFile(io.BytesIO(long + bytes(100))) as opened:  # truncated
        assert (opened.format, opened.samplerate) == ("RF64", 192_000)
    assert int.from_bytes(long[28:36], "little") == 6 * 2**30
