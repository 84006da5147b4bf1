import io
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import open_audio, read_channels, read_length, read_segment
from spikesep.separation.audio.wav import read_samples, read_wav_header, wav_header
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.inference import recordings
from spikesep.separation.inference.recordings import open_files
from spikesep.separation.inference.separate import Model
from spikesep.separation.model.separator import Separator


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_wav_stream_is_read_as_libsndfile_reads_the_file(subtype, channels):
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


def test_a_large_chunk_before_the_samples_of_a_stream_is_passed_over():
    file = io.BytesIO()
    soundfile.write(file, np.full(100, 0.5), 8000, format="WAV", subtype="PCM_16")
    content, size = file.getvalue(), 3 * 2**20 + 1
    chunk = b"id3 " + size.to_bytes(4, "little") + b"d" * (size + 1)
    stream = io.BufferedReader(io.BytesIO(content[:36] + chunk + content[36:]))
    _, n, kind, size = read_wav_header(stream)
    (found,) = read_samples(stream, n, kind, size)
    np.testing.assert_array_equal(found, np.full((1, 100), 0.5))


@pytest.mark.parametrize("size", [0, 2**31 - 2**12, 2**31, 2**32 - 1])
def test_a_size_that_stands_for_none_is_not_missed(tmp_path, size):
    """As sox, arecord and ffmpeg write into a pipe; whoever keeps it has a file that says so."""
    soundfile.write(tmp_path / "a.wav", np.full(100, 0.5), 8000, subtype="PCM_16")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = min(size + 36, 2**32 - 1).to_bytes(4, "little")
    content[40:44] = size.to_bytes(4, "little")
    assert read_wav_header(io.BytesIO(content))[3] is None
    (tmp_path / "a.wav").write_bytes(content)
    if size:  # libsndfile takes 0 for nothing
        assert read_channels(tmp_path / "a.wav")[0].shape == (1, 100)


def test_a_file_that_may_not_be_read_is_told_in_a_line_and_the_rest_goes_on(tmp_path, monkeypatch):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.full(800, 0.1), 8000)
    opened = Path.open

    def refuse(path, *args, **options):
        if path.name == "a.wav":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    told = {}
    model = Model(Separator(SeparatorConfig(n_filters=16, n_channels=8, dilations=[1])))
    found = list(
        model.separate_files([tmp_path / "a.wav", tmp_path / "b.wav"], on_error=told.__setitem__)
    )
    assert [path.name for path, _ in found] == ["b.wav"]
    assert "cannot be read (Permission denied)" in str(told[tmp_path / "a.wav"])


@pytest.mark.parametrize(
    "content",
    [b"", b"RIFF", b"hello world, hello", wav_header(8000, None)[:30], b"RIFF\0\0\0\0AVI LIST"],
)
def test_what_is_no_wav_stream_is_told_in_a_line(content):
    with pytest.raises(SpikeSepError, match="standard input"):
        read_wav_header(io.BytesIO(content))


def test_a_header_is_libsndfiles_and_past_4_gib_it_is_rf64():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(10), 8000, format="WAV", subtype="PCM_16")
    assert wav_header(8000, 10) == file.getvalue()[:44]
    long = wav_header(192_000, 3 * 2**30)
    with soundfile.SoundFile(
        io.BytesIO(long + bytes(100))
    ) as opened:  # cut off, but the header is understood
        assert (opened.format, opened.samplerate) == ("RF64", 192_000)
    assert int.from_bytes(long[28:36], "little") == 6 * 2**30


def test_voices_of_unknown_length_are_whole_files_in_the_end(tmp_path):
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    with open_files(paths, 8000) as write:
        for _ in range(3):
            write(np.array([[1, 2], [3, 4]], np.int16))
        assert not any(path.exists() for path in paths)
    np.testing.assert_array_equal(soundfile.read(paths[1], dtype="int16")[0], [2, 4] * 3)
    assert len(list(tmp_path.iterdir())) == 2


def test_of_voices_that_fail_on_the_way_none_is_there(tmp_path):
    with (
        pytest.raises(RuntimeError, match="on the way"),
        open_files([tmp_path / "a.wav", tmp_path / "b.wav"], 8000) as write,
    ):
        write(np.zeros((3, 2), np.int16))
        raise RuntimeError("on the way")
    assert not list(tmp_path.iterdir())


def aac(path, samples, rate=16000, channels=1, format="ipod"):
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(
            "aac", rate=rate, layout="mono" if channels == 1 else "stereo"
        )
        for k in range(0, len(samples), 1024):
            block = np.ascontiguousarray(
                np.tile(samples[k : k + 1024], (channels, 1)).astype(np.float32)
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
def test_what_libsndfile_does_not_read_ffmpeg_does(tmp_path, name, format, channels):
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    samples, rate = read_channels(aac(tmp_path / name, tone, 16000, channels, format))
    assert rate == 16000
    assert samples.shape[0] == channels
    assert abs(samples.shape[1] - 16000) < 4000
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(("name", "format"), [("a.m4a", "ipod"), ("a.aac", "adts")])
def test_length_and_parts_of_what_ffmpeg_reads(tmp_path, name, format):
    path = aac(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, 16000), 16000, 1, format)
    samples, _ = read_channels(path)
    length, rate = read_length(path)
    assert rate == 16000
    assert abs(length - samples.shape[1]) < 3200
    part, _ = read_segment(path, lambda length, rate: (5000, 3000))
    np.testing.assert_array_equal(part, samples[0, 5000:8000])


def test_an_m4a_that_is_cut_off_is_told(tmp_path):
    path = aac(tmp_path / "a.m4a", np.random.default_rng(0).normal(0, 0.1, 48000))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(SpikeSepError, match=r"a\.m4a"):
        read_channels(path)


def test_a_long_file_is_opened_without_being_read(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(800_000), 8000)
    sound = open_audio(tmp_path / "a.flac")
    assert (sound.sample_rate, sound.channels, sound.length) == (8000, 1, 800_000)
    assert next(sound.blocks).shape[1] < 800_000


MEASURE = """
import resource, sys
import soundfile, torch
from pathlib import Path
from spikesep.separation.separate import load_model
from spikesep.separation.audio import open_audio
from spikesep.separation.recordings import separate_sound, write_files
from functools import partial
torch.set_num_threads(1)
model, sound, out = load_model(sys.argv[1]), open_audio(Path(sys.argv[2])), Path(sys.argv[3])
write = partial(write_files, [out / "1.wav", out / "2.wav"], sound.sample_rate)
separate_sound(model, sound, out, write, "match-mix", 5.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_twelve_minutes_take_no_more_memory_than_one(kept_experiment, tmp_path):
    """In memory, the longer one's samples and voices alone would be 11 * 60 * 16000 * 3 * 4 bytes = 127 MB more."""
    peaks = {}
    for minutes in (1, 12):
        path = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(path, "w", 16000, 1) as file:
            for k in range(minutes):
                file.write(np.random.default_rng(k).normal(0, 0.1, 60 * 16000).astype(np.float32))
        argv = [
            sys.executable,
            "-c",
            MEASURE,
            str(kept_experiment.exp / "ann"),
            str(path),
            str(tmp_path),
        ]
        environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
        peaks[minutes] = (
            int(subprocess.run(argv, check=True, capture_output=True, env=environment).stdout)
            / 1024
        )
    assert soundfile.info(tmp_path / "1.wav").frames == 12 * 60 * 16000
    assert peaks[12] - peaks[1] < 40, peaks


def test_a_file_on_disk_is_separated_as_in_memory(tmp_path):
    model = Model(Separator(SeparatorConfig(n_filters=16, n_channels=8, dilations=[1, 2])))
    wave = np.random.default_rng(0).normal(0, 0.1, (30000, 2)).clip(-1, 1)
    soundfile.write(tmp_path / "a.wav", wave, 22050, subtype="FLOAT")
    paths = [tmp_path / "1.wav", tmp_path / "2.wav"]
    for level in ("match-mix", "peak", "none"):
        sound = open_audio(tmp_path / "a.wav")
        write = partial(recordings.write_files, paths, 22050)
        found = recordings.separate_sound(model, sound, tmp_path, write, level, 0.3)
        whole = model.separate_recording(wave.T.astype(np.float32), 22050, level)
        written = np.stack([read_channels(path)[0][0] for path in paths])
        np.testing.assert_allclose(written, whole.estimates, rtol=0, atol=0.5 / 32768 + 1e-5)
        assert found.scale == pytest.approx(whole.scale)
        assert found.seconds == pytest.approx(30000 / 22050)
