import av
import numpy as np
import pytest

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import read_channels, read_length, read_segment

FRAME = 1024


def aac(path, samples, rate=16000, channels=1, format="ipod"):
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(
            "aac", rate=rate, layout="mono" if channels == 1 else "stereo"
        )
        for k in range(0, len(samples), FRAME):
            block = np.ascontiguousarray(
                np.tile(samples[k : k + FRAME], (channels, 1)).astype(np.float32)
            )
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=stream.layout.name)
            frame.sample_rate, frame.pts = rate, k
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "format"), [("a.m4a", "ipod"), ("a.aac", "adts"), ("a.mkv", "matroska")]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_aac_is_read_by_ffmpeg(tmp_path, name, format, channels):
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    samples, rate = read_channels(aac(tmp_path / name, tone, 16000, channels, format))
    assert rate == 16000
    assert samples.shape[0] == channels
    assert 0 <= samples.shape[1] - 16000 < 2 * FRAME  # of padding
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(("name", "format"), [("a.m4a", "ipod"), ("a.aac", "adts")])
def test_length_and_parts_of_aac(tmp_path, name, format):
    path = aac(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, 16000), 16000, 1, format)
    samples, _ = read_channels(path)
    length, rate = read_length(path)
    assert rate == 16000
    assert abs(length - samples.shape[1]) < 2 * FRAME
    part, _ = read_segment(path, lambda length, rate: (5000, 3000))
    np.testing.assert_array_equal(part, samples[0, 5000:8000])


def test_truncated_m4a_is_rejected(tmp_path):
    path = aac(tmp_path / "a.m4a", np.random.default_rng(0).normal(0, 0.1, 48000))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(SpikeSepError, match=r"a\.m4a"):
        read_channels(path)
