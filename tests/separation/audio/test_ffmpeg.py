import warnings

import numpy as np
import pytest
import soundfile
from helpers.sound.encode import WITHOUT_XING, encoded, wav_bytes

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import open_audio, read_channels, read_length, read_segment

RATE = 16000
NOISE = np.random.default_rng(0).normal(0, 0.1, 4 * RATE)


def mp3(path, *bit_rates):
    """Write an MP3 file without a Xing frame, a second at each bit rate."""
    content = b""
    for bit_rate in bit_rates:
        content += encoded(
            path, NOISE[:RATE], "libmp3lame", bit_rate=bit_rate, options=WITHOUT_XING
        ).read_bytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("bit_rates", [(64000, 32000, 16000), (16000, 32000, 64000), (32000,)])
def test_mp3_without_a_xing_frame_is_read_to_its_end(tmp_path, bit_rates):
    path = mp3(tmp_path / "a.mp3", *bit_rates)
    samples, rate = read_channels(path)
    assert rate == RATE
    assert len(bit_rates) <= samples.shape[1] / RATE < 1.1 * len(bit_rates)
    assert read_length(path) == (samples.shape[1], RATE)


def test_mp3_in_wav_is_read_to_its_end(tmp_path):
    content = mp3(tmp_path / "a.mp3", 16000, 64000).read_bytes()
    expected = read_channels(tmp_path / "a.mp3")[0]
    extra = b"\x0c\0\1\0\2\0\0\0\x40\2\1\0\x51\4"
    (tmp_path / "a.wav").write_bytes(wav_bytes(content, code=0x55, bits=8, extra=extra))
    np.testing.assert_array_equal(read_channels(tmp_path / "a.wav")[0], expected)


def test_concatenated_mp3_is_read_to_its_end(tmp_path):
    soundfile.write(tmp_path / "a.mp3", NOISE, RATE, format="MP3")
    content = (tmp_path / "a.mp3").read_bytes()
    assert read_channels(tmp_path / "a.mp3")[0].shape == (1, len(NOISE))
    assert open_audio(tmp_path / "a.mp3").length == len(NOISE)
    (tmp_path / "b.mp3").write_bytes(content + content)
    assert (
        0 <= read_channels(tmp_path / "b.mp3")[0].shape[1] - 2 * len(NOISE) < 3000
    )  # a pause at the seam


def test_flac_of_unknown_length_is_read(tmp_path):
    """Programs that write into a pipe leave the length at 0."""
    path = tmp_path / "a.flac"
    soundfile.write(path, NOISE, RATE)
    expected = soundfile.read(path, dtype="float32")[0]
    content = bytearray(path.read_bytes())
    content[21:26] = bytes([content[21] & 0xF0]) + bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_channels(path)[0][0], expected)
    assert read_length(path) == (len(NOISE), RATE)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.m4a", "aac", 16000),
        ("a.m4a", "aac", 44100),
        ("a.m4a", "alac", 16000),
        ("a.mp4", "libopus", 48000),
        ("a.mp4", "libmp3lame", 16000),
        ("a.webm", "libopus", 48000),
        ("a.wv", "wavpack", 16000),
        ("a.tta", "tta", 16000),
    ],
)
def test_encoder_padding_is_removed(tmp_path, name, codec, rate):
    path = encoded(tmp_path / name, NOISE, codec, rate)
    samples, _ = read_channels(path)
    expected = len(NOISE) * rate // RATE
    assert samples.shape == (1, expected)
    assert read_length(path)[0] == pytest.approx(expected, abs=1 if name != "a.webm" else 400)


@pytest.mark.parametrize("name", ["a.m4a", "a.mka"])
def test_gap_in_time_is_reported_and_skipped(tmp_path, name):
    path = encoded(tmp_path / name, NOISE, "aac", gap=7.0)
    said = []
    assert sum(block.shape[1] for block in open_audio(path, notify=said.append).blocks) >= len(
        NOISE
    )
    (line,) = said
    assert f"{name}: 7.00 s of its time hold no audio" in line
    assert read_length(path)[0] == pytest.approx(len(NOISE), abs=2048)


def test_further_tracks_are_reported(tmp_path):
    path = encoded(tmp_path / "a.mka", NOISE, "aac", tracks=2)
    with pytest.warns(UserWarning, match=r"a\.mka: has 2 audio tracks; the first is read"):
        read_channels(path)


def test_damaged_packet_is_reported_and_skipped(tmp_path):
    path = encoded(tmp_path / "a.aac", NOISE, "aac", format="adts")
    content = path.read_bytes()
    middle = content.index(content[:2], len(content) // 2)
    path.write_bytes(content[: middle + 7] + bytes(40) + content[middle + 47 :])
    with pytest.warns(UserWarning, match=r"a\.aac: \d+ of \d+ packets are damaged and skipped"):
        assert read_channels(path)[0].shape[1] == pytest.approx(len(NOISE), abs=5000)


def test_segment_equals_that_part_of_the_recording(tmp_path):
    path = encoded(tmp_path / "a.m4a", NOISE, "aac")
    whole = read_channels(path)[0][0]
    path.write_bytes(path.read_bytes())
    part, _ = read_segment(path, lambda length, rate: (5000, 3000))
    np.testing.assert_array_equal(part, whole[5000:8000])
    assert len(read_segment(path, lambda length, rate: (length - 100, 3000))[0]) == 100


def test_intact_files_are_read_without_warnings(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_channels(encoded(tmp_path / "a.m4a", NOISE, "aac"))
        for kind, subtype in (
            ("WAV", "PCM_16"),
            ("FLAC", "PCM_16"),
            ("OGG", "VORBIS"),
            ("MP3", "MPEG_LAYER_III"),
        ):
            soundfile.write(tmp_path / "a", NOISE.clip(-1, 1), RATE, format=kind, subtype=subtype)
            read_channels(tmp_path / "a")


def test_container_without_audio_is_rejected(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(2000))
    with pytest.raises(SpikeSepError, match=r"a\.mp4: not a readable audio file"):
        read_channels(tmp_path / "a.mp4")
