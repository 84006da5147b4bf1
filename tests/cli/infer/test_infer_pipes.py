import io
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
from helpers.infer import COMMAND, environment, infer, tone, wav, write_tones


def test_piped_recording_equals_a_file(tmp_path, model, pipe, capsys):
    soundfile.write(tmp_path / "a.wav", tone(8000, 2), 16000)
    assert infer(tmp_path / "a.wav", "--model", model, "--out-dir", tmp_path) == 0
    voices = np.stack(
        [soundfile.read(tmp_path / f"a_spk{k}.wav", dtype="int16")[0] for k in (1, 2)], axis=1
    )
    stdout = pipe((tmp_path / "a.wav").read_bytes())
    assert infer("-", "--model", model) == 0
    piped, rate = soundfile.read(io.BytesIO(stdout.getvalue()), dtype="int16")
    assert rate == 16000
    np.testing.assert_array_equal(piped, voices)
    assert "real-time factor" in capsys.readouterr().err


def test_stream_of_unknown_length_is_separated(tmp_path, model, pipe):
    left = tmp_path / ".spikesep-locked-0.1.part.wav"  # of a killed process
    left.touch()
    content = bytearray(wav(tone(3000), 8000))
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    pipe(bytes(content))
    assert infer("-", "--model", model, "--out-dir", tmp_path) == 0
    assert soundfile.info(tmp_path / "stdin_spk2.wav").frames == 3000
    assert not left.exists()


@pytest.mark.parametrize("live", [True, False])
def test_chunks_after_the_samples_are_ignored(tmp_path, model, pipe, live):
    content = wav(tone(3000), 8000, "FLOAT") + b"LIST" + (800).to_bytes(4, "little") + b"\x7e" * 800
    content = content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:]
    pipe(content)
    assert infer("-", "--model", model, "--out-dir", tmp_path, *(["--live"] if live else [])) == 0
    assert soundfile.info(tmp_path / "stdin_spk2.wav").frames == 3000


def test_truncated_stream_is_reported(tmp_path, model, pipe, capsys):
    pipe(wav(tone(3000), 8000)[:-100])
    assert infer("-", "--model", model, "--out-dir", tmp_path) == 2
    assert "standard input: cut off" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_headerless_samples_can_be_piped(tmp_path, model, pipe):
    pipe((tone(3000)[:, 0] * 32767).astype("<i2").tobytes())
    assert infer("-", "--raw", 16000, "--model", model, "--out-dir", tmp_path) == 0
    info = soundfile.info(tmp_path / "stdin_spk1.wav")
    assert (info.samplerate, info.frames) == (16000, 3000)


def test_empty_or_closed_standard_input_is_reported(model, pipe, capsys, monkeypatch):
    for argv in (["-"], ["-", "--live"]):
        stdout = pipe(b"")
        assert infer(*argv, "--model", model) == 2
        assert "standard input: is empty" in capsys.readouterr().err
        monkeypatch.setattr(sys, "stdin", None)  # as in Python if it is closed
        assert infer(*argv, "--model", model) == 2
        assert "-: standard input is closed; give a file" in capsys.readouterr().err
        assert not stdout.getvalue()


def test_named_pipes_are_separated_like_files(tmp_path, model, capsys):
    write_tones(tmp_path, "a.wav")
    os.mkfifo(tmp_path / "fifo")
    for content, status in (((tmp_path / "a.wav").read_bytes(), 0), (b"hello", 2), (b"", 2)):
        writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=[content])
        writer.start()
        argv = (
            tmp_path / "fifo",
            tmp_path / "a.wav",
            "--model",
            model,
            "--out-dir",
            tmp_path / "out",
            "--overwrite",
        )
        assert infer(*argv) == status
        writer.join()
        if status:
            assert f"{tmp_path / 'fifo'}: " in capsys.readouterr().err
    assert (tmp_path / "out" / "fifo_spk1.wav").read_bytes() == (
        tmp_path / "out" / "a_spk1.wav"
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(tmp_path, model, closed):
    write_tones(tmp_path, "a.wav")
    argv = [*COMMAND, "a.wav", "no.wav", "--model", model, "--out-dir", "out"]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "bash", *argv],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert all(soundfile.info(tmp_path / "out" / f"a_spk{k}.wav").frames == 800 for k in (1, 2))
