import struct

import numpy as np
import pytest
import soundfile
from helpers.sound.encode import encoded, wav_bytes

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import open_audio, read_channels, read_length

RATE = 16000
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)
PCM = (TONE * 32767).astype("<i2").tobytes()


def read_with_warnings(path):
    """Read a recording of one channel; return its samples and the warnings."""
    said = []
    return np.concatenate([block[0] for block in open_audio(path, notify=said.append).blocks]), said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"riff": len(PCM) + 44}, None),  # recorders in browsers
        (
            {"riff": len(PCM) + 400_000},
            "states 464008 bytes where 64044 are present; its audio is complete",
        ),
        ({"riff": 2**32 - 1, "data": 2**32 - 1}, None),  # written into a pipe
        ({"riff": 0, "data": 0}, "never finished, its header gives no length; 2.00 s"),
        ({"riff": 36 + 16000, "data": 16000}, "48000 bytes more than its header says; 2.00 s"),
        ({"data": 16000}, "48000 bytes more than its header says; 2.00 s"),
        ({"behind": b"LIST" + struct.pack("<I", 4) + b"INFO"}, None),
        (
            {"behind": b"LIST" + struct.pack("<I", 400) + bytes(4)},
            "4 bytes after its audio are ignored",
        ),
        ({"behind": b"TAG" + bytes(125)}, None),
        ({"behind": b"ID3\3" + bytes(9000)}, None),
        ({"data": len(PCM) + 44}, None),  # counts the header
        ({"behind": bytes(100)}, "100 bytes after its audio are ignored"),
    ],
)
@pytest.mark.parametrize(("code", "bits"), [(1, 16), (3, 32), (7, 8)])
def test_all_samples_of_a_wav_file_are_read_regardless_of_stated_sizes(
    tmp_path, options, said, code, bits
):
    path = tmp_path / "a.wav"
    body = TONE[: len(PCM) // 4].tobytes() if code == 3 else PCM
    path.write_bytes(wav_bytes(body, code=code, bits=bits, **options))
    samples, told = read_with_warnings(path)
    assert len(samples) == len(PCM) * 8 // bits
    if code != 7:
        expected = (
            TONE[: len(samples)] if code == 3 else np.frombuffer(PCM, "<i2") / np.float32(32768)
        )
        np.testing.assert_array_equal(samples, expected)
    assert len(told) == (said is not None)
    seconds = f"{len(samples) / RATE:.2f} s"
    assert all(
        line.startswith(f"{path}: ") and said.replace("2.00 s", seconds) in line for line in told
    )
    assert read_length(path) == (len(samples), RATE)


def test_chunk_after_unpadded_odd_data_is_not_audio(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(
        wav_bytes(PCM[:-1], code=7, bits=8, behind=b"id3 " + struct.pack("<I", 9000) + bytes(9000))
    )
    samples, said = read_with_warnings(path)
    assert (len(samples), said) == (len(PCM) - 1, [])


def test_sizes_that_wrapped_around_at_4_gib_are_corrected(tmp_path):
    path = tmp_path / "long.wav"
    length = 2**32 + len(PCM)
    path.write_bytes(wav_bytes(PCM, riff=(length + 36) % 2**32, data=length % 2**32))
    with path.open("r+b") as file:  # sparse
        file.truncate(44 + length)
    said = []
    sound = open_audio(path, notify=said.append)
    assert sound.length == length // 2
    assert "long.wav: is longer than its header can say; 134219.73 s" in said[0]
    np.testing.assert_array_equal(
        next(sound.blocks)[0, : len(TONE)] * 32768, np.frombuffer(PCM, "<i2")
    )


LIBSNDFILE = ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "SVX", "FLAC", "MP3", "NIST"]
LIBSNDFILE += ["VOC", "AVR", "MAT4", "MAT5", "MPC2K", "WVE", "HTK"]
FFMPEG = {
    "a.m4a": "aac",
    "fast.m4a": "aac",
    "fragments.mp4": "aac",
    "a.mp4": "libmp3lame",
    "a.mka": "aac",
    "a.webm": "libopus",
    "a.avi": "libmp3lame",
    "a.wma": "wmav2",
    "a.wv": "wavpack",
    "a.tta": "tta",
}
OPTIONS = {
    "fast.m4a": {"movflags": "faststart"},
    "fragments.mp4": {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"},
}


def written(path, kind):
    """Write a recording of two seconds in a format that states its length."""
    if kind in FFMPEG:
        rate = 48000 if FFMPEG[kind] == "libopus" else RATE
        return encoded(path, TONE, FFMPEG[kind], rate, bit_rate=24000, options=OPTIONS.get(kind))
    subtype = {"MP3": "MPEG_LAYER_III", "WVE": "ALAW"}.get(kind, "PCM_16")
    soundfile.write(path, TONE, 8000 if kind == "WVE" else RATE, format=kind, subtype=subtype)
    return path


@pytest.mark.parametrize("kind", [*LIBSNDFILE, *FFMPEG])
def test_truncation_is_detected_in_every_format_that_states_a_length(tmp_path, kind):
    path = written(tmp_path / (kind if "." in kind else f"a.{kind.lower()}"), kind)
    samples, rate = read_channels(path)
    assert samples.shape[1] / rate == pytest.approx(4 if kind == "WVE" else 2, abs=0.1)
    content = path.read_bytes()
    for share in (0.6, 0.95):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(SpikeSepError, match=path.name):
            read_channels(path)


@pytest.mark.parametrize(
    ("kind", "place", "size"),
    [("AIFF", 42, 4), ("AU", 8, 4), ("CAF", -64012, 8), ("W64", -64008, 8)],
)
def test_all_samples_of_a_killed_recorder_are_read(tmp_path, kind, place, size):
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, TONE, RATE, format=kind, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    expected = soundfile.read(path, dtype="float32")[0]
    place %= len(content)
    assert (
        int.from_bytes(content[place : place + size], "little" if kind == "W64" else "big") >= 64000
    )
    content[place : place + size] = bytes(size)
    path.write_bytes(content)
    samples, said = read_with_warnings(path)
    np.testing.assert_array_equal(samples, expected)
    assert "never finished" in said[0]


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"RIFF\0\0\0\0WAVE", b"caff\0\1\0\0", b".snd" + bytes(30)]
)
def test_truncated_headers_are_rejected(tmp_path, content):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(SpikeSepError, match=r"a\.wav"):
        read_channels(path)
