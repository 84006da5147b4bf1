import subprocess
import sys

import numpy as np
import pytest
import soundfile
from helpers.sound.encode import wav_bytes
from hypothesis import given
from hypothesis.extra.numpy import arrays

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import (
    open_audio,
    read_audio,
    read_channels,
    read_length,
    read_segment,
    to_pcm16,
    write_wav,
)


def sine(hz, seconds, rate):
    return (0.4 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def test_wav_round_trip_is_exact_to_half_a_step(tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, 4000).astype(np.float32)
    write_wav(tmp_path / "x.wav", samples, 8000)
    np.testing.assert_allclose(read_audio(tmp_path / "x.wav"), samples, atol=0.5 / 32768 + 1e-7)
    assert soundfile.info(tmp_path / "x.wav").subtype == "PCM_16"


@given(arrays(np.int16, 50))
def test_every_16_bit_value_round_trips(pcm):
    np.testing.assert_array_equal(to_pcm16(pcm.astype(np.float32) / 32768), pcm)


@pytest.mark.parametrize("bad", [1.01, -1.0001, np.nan, np.inf])
def test_writing_past_full_scale_fails_without_a_file(tmp_path, bad):
    with pytest.raises(ValueError, match="full scale"):
        write_wav(tmp_path / "x.wav", np.array([0.0, bad, 0.1], np.float32), 8000)
    assert list(tmp_path.iterdir()) == []


def test_raw_gsm_is_read_at_8_khz(tmp_path):
    voice = sine(440, 1.0, 8000)
    soundfile.write(tmp_path / "x.gsm", voice, 8000, format="RAW", subtype="GSM610")
    channels, rate = read_channels(tmp_path / "x.gsm")
    assert rate == 8000
    assert channels.shape[0] == 1
    assert channels.shape[1] == pytest.approx(8000, abs=320)
    assert np.corrcoef(channels[0, :8000], voice)[0, 1] > 0.95


def test_read_audio_averages_the_channels_that_read_channels_returns(tmp_path):
    left, right = sine(300, 0.5, 16000), sine(700, 0.5, 16000)
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    channels, rate = read_channels(tmp_path / "x.wav")
    assert (rate, channels.shape) == (16000, (2, 8000))
    np.testing.assert_array_equal(channels, np.stack([left, right]))
    np.testing.assert_allclose(read_audio(tmp_path / "x.wav"), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [44100, 16000, 11025])
def test_resampling_keeps_a_low_tone_and_removes_one_above_the_new_band(tmp_path, rate):
    soundfile.write(tmp_path / "low.wav", sine(1000, 1.0, rate), rate, subtype="FLOAT")
    low = read_audio(tmp_path / "low.wav", 8000)
    assert len(low) == 8000
    np.testing.assert_allclose(low[200:-200], sine(1000, 1.0, 8000)[200:-200], atol=5e-3)
    soundfile.write(tmp_path / "high.wav", sine(5000, 1.0, rate), rate, subtype="FLOAT")
    assert np.abs(read_audio(tmp_path / "high.wav", 8000)[200:-200]).max() < 5e-3


def test_reading_without_resampling_does_not_import_torch(tmp_path):
    write_wav(tmp_path / "x.wav", sine(440, 0.1, 8000), 8000)
    code = f"""
import sys
from spikesep.separation.audio.files import read_audio
assert read_audio({str(tmp_path / "x.wav")!r}, 8000).shape == (800,)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


@pytest.mark.parametrize("name", ["a.raw", "a.gsm", "a.ul", "a.vox", "a.mp3", "a.txt", "a"])
def test_format_is_detected_from_content_not_from_the_name(tmp_path, name):
    voice = sine(440, 0.5, 16000)
    for kind, subtype in (
        ("WAV", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("CAF", "FLOAT"),
    ):
        soundfile.write(tmp_path / "content", voice, 16000, format=kind, subtype=subtype)
        (tmp_path / name).write_bytes((tmp_path / "content").read_bytes())
        assert read_channels(tmp_path / name)[0].shape == (1, 8000)
        assert read_length(tmp_path / name) == (8000, 16000)
        assert len(read_segment(tmp_path / name, lambda length, rate: (1000, 500))[0]) == 500


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a.raw", r"a\.raw: .* spikesep-infer --raw RATE - < a\.raw"),
        ("a.PCM", r"a\.PCM: .* spikesep-infer --raw RATE - < a\.PCM"),
        ("a.ul", r"a\.ul: mu-law without a header.* ffmpeg -f mulaw -ar 8000 -i a\.ul a\.wav"),
        ("a.al", r"a\.al: A-law without a header.* ffmpeg -f alaw -ar 8000 -i a\.al a\.wav"),
    ],
)
def test_headerless_samples_fail_with_the_command_to_use(tmp_path, name, remedy):
    (tmp_path / name).write_bytes(np.full(1000, 0xFBFF, "<u2").tobytes())  # as an mp3 file begins
    with pytest.raises(SpikeSepError, match=remedy) as caught:
        read_channels(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_implausible_sample_rates_are_rejected_on_opening(tmp_path):
    path = tmp_path / "a.wav"
    for rate in (768_001, 2**31 - 1, 999):
        path.write_bytes(wav_bytes(bytes(2000), rate=rate))
        for read in (read_channels, read_length, open_audio):
            with pytest.raises(
                SpikeSepError,
                match=rf"a\.wav: has a sample rate of {rate} Hz; .* 1000 to 768000 Hz",
            ):
                read(path)
    with path.open("rb") as file, pytest.raises(SpikeSepError, match="sample rate of 10 Hz"):
        open_audio(file, raw_rate=10)


def test_errors_are_one_line_that_names_the_file(tmp_path):
    (tmp_path / "text.wav").write_text("no audio at all")
    (tmp_path / "void.wav").write_bytes(b"")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 8000)
    soundfile.write(
        tmp_path / "nan.wav", np.array([0, np.nan, 0], np.float32), 8000, subtype="FLOAT"
    )
    soundfile.write(
        tmp_path / "inf.wav", np.array([0, np.inf, 0], np.float32), 8000, subtype="FLOAT"
    )
    (tmp_path / "folder.wav").mkdir()
    for name in ("absent", "text", "void", "empty", "nan", "inf", "folder"):
        with pytest.raises(SpikeSepError) as caught:
            read_audio(tmp_path / f"{name}.wav")
        assert f"{name}.wav" in str(caught.value)
        assert "\n" not in str(caught.value)
