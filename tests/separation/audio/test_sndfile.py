import numpy as np
import pytest
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import open_audio, read_channels, read_length, read_segment

RATE = 16000
NOISE = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)


def write_streams(tmp_path, format, subtype, *rates):
    """Write a file of one stream for each rate."""
    for k, rate in enumerate(rates):
        path = tmp_path / f"{k}.part"
        soundfile.write(path, NOISE[: (k + 1) * RATE], rate, format=format, subtype=subtype)
        yield path


@pytest.mark.parametrize(("subtype", "rate"), [("VORBIS", 16000), ("OPUS", 48000)])
@pytest.mark.parametrize("again", [False, True])
def test_chained_ogg_is_read_to_its_last_stream(tmp_path, subtype, rate, again):
    """`cat` and radio servers write such files; repeated streams share a serial number."""
    parts = list(write_streams(tmp_path, "OGG", subtype, rate, rate))
    parts = [parts[0]] * 2 if again else parts
    path = tmp_path / "a.ogg"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    expected = np.concatenate([soundfile.read(part, dtype="float32")[0] for part in parts])
    np.testing.assert_array_equal(read_channels(path)[0][0], expected)
    assert read_length(path) == (len(expected), rate)
    part, _ = read_segment(path, lambda length, rate: (length - 20_000, 15_000))
    np.testing.assert_array_equal(part, expected[-20_000:-5_000])


def test_concatenated_flac_is_read_to_its_end(tmp_path):
    parts = list(write_streams(tmp_path, "FLAC", "PCM_16", RATE, RATE, RATE))
    path = tmp_path / "a.flac"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    expected = np.concatenate([soundfile.read(part, dtype="float32")[0] for part in parts])
    np.testing.assert_array_equal(read_channels(path)[0][0], expected)


def test_flac_data_after_the_stated_end_is_reported(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, NOISE.repeat(2), RATE)
    content = bytearray(path.read_bytes())
    content[21:26] = bytes([content[21] & 0xF0]) + (4096).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.warns(
        UserWarning, match=r"a\.flac: \d+ bytes after the stated end of its audio are ignored"
    ):
        assert read_channels(path)[0].shape == (1, 4096)


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("FLAC", "PCM_16")])
def test_streams_of_different_rates_are_rejected(tmp_path, format, subtype):
    path = tmp_path / "a.part"
    path.write_bytes(
        b"".join(
            part.read_bytes() for part in write_streams(tmp_path, format, subtype, 16000, 8000)
        )
    )
    with pytest.raises(SpikeSepError, match="changes its rate or channels"):
        read_channels(path)


def test_unreadable_ogg_streams_and_truncated_pages_are_reported(tmp_path):
    (part,) = write_streams(tmp_path, "OGG", "VORBIS", RATE)
    content, path, said = part.read_bytes(), tmp_path / "a.ogg", []
    path.write_bytes(content + content[:3000].replace(b"vorbis", b"sirbov") + content[:-50])
    blocks = list(open_audio(path, notify=said.append).blocks)
    assert sum(block.shape[1] for block in blocks) >= RATE
    assert any("3000 bytes of Ogg streams cannot be read" in line for line in said)
    assert any("ends within an Ogg page" in line for line in said)


def test_gsm_suffix_requires_gsm_frames(tmp_path):
    (tmp_path / "a.gsm").write_bytes(bytes(3300))
    with pytest.raises(SpikeSepError, match=r"a\.gsm: not a readable audio file"):
        read_channels(tmp_path / "a.gsm")
