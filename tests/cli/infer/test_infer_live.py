import json
import subprocess
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import soundfile
from helpers.infer import COMMAND, environment, infer, tone, wav


@pytest.mark.parametrize("raw", [False, True])
def test_live_voices_equal_those_of_a_file_except_for_level(tmp_path, model, pipe, capsys, raw):
    samples = (tone(12000)[:, 0] * 32767).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    argv = ("--model", model, "--level", "none", "--band", "network")
    assert infer(tmp_path / "a.wav", "--out-dir", tmp_path, *argv) == 0
    stdout = pipe(samples.tobytes() if raw else wav(samples, 16000))
    assert infer("-", "--live", "--segment", 0.1, *argv, *(["--raw", 16000] if raw else [])) == 0
    live = np.frombuffer(stdout.getvalue()[44:], np.int16).reshape(-1, 2)
    for k in (1, 2):
        voice = soundfile.read(tmp_path / f"a_spk{k}.wav", dtype="int16")[0]
        np.testing.assert_allclose(live[:, k - 1], voice, atol=1)
    assert "latency" in capsys.readouterr().err


def test_live_stream_with_sample_rate_0_is_rejected(model, pipe, capsys):
    content = bytearray(wav(tone(800), 8000))
    content[24:32] = bytes(8)
    stdout = pipe(bytes(content))
    assert infer("-", "--live", "--model", model) == 2
    assert "standard input: a sample rate of 0 Hz; it must be" in capsys.readouterr().err
    assert not stdout.getvalue()


@pytest.mark.slow
def test_live_voices_arrive_during_the_recording(model):
    """Voices arrive before the recording ends, with the stated latency."""
    argv = [*COMMAND, "-", "--live", "--segment", "0.1", "--raw", "8000", "--model", str(model)]
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    )
    timer = threading.Timer(60, process.kill)  # reading would wait forever
    timer.start()
    process.stdin.write(np.zeros(8000, "<i2").tobytes())
    process.stdin.flush()
    header = process.stdout.read(44)
    assert header[:4] == b"RIFF"
    # Of one second put in, 0.75 s come out while the recording continues.
    assert len(process.stdout.read(2 * 2 * 6000)) == 24000
    process.stdin.close()
    assert len(process.stdout.read()) == 2 * 2 * 2000
    assert process.wait() == 0
    timer.cancel()


@pytest.mark.slow
def test_live_recording_ended_by_a_signal_is_kept(tmp_path, model):
    argv = [*COMMAND, "-", "--live", "--segment", "0.1", "--raw", "8000", "--model", str(model)]
    process = subprocess.Popen(
        [*argv, "--out-dir", str(tmp_path)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    process.stdin.write(np.zeros(8000, "<i2").tobytes())
    process.stdin.flush()
    assert b"latency" in process.stderr.readline()
    with suppress(BrokenPipeError):  # it has ended
        for _ in range(1000):
            time.sleep(0.02)
            process.stdin.write(np.zeros(80, "<i2").tobytes())
            process.stdin.flush()
            if any(part.stat().st_size > 8000 for part in tmp_path.glob(".spikesep-*.part.wav")):
                process.terminate()
                break
    assert process.wait(20) == 0
    assert soundfile.info(tmp_path / "stdin_spk2.wav").frames >= 8000


def test_interrupted_live_recording_is_kept_and_reported(tmp_path, model, pipe, capsys):
    samples = tone(40000)
    samples[35000] = np.nan  # beyond the first block of a pipe
    pipe(wav(samples, 8000, "FLOAT"))
    argv = (
        "-",
        "--live",
        "--segment",
        0.1,
        "--model",
        model,
        "--out-dir",
        tmp_path,
        "--json",
        tmp_path / "report",
    )
    assert infer(*argv) == 2
    latency, error = capsys.readouterr().err.strip().splitlines()
    assert "latency" in latency
    assert "NaN" in error
    assert "everything before that is separated" in error
    assert 16000 < soundfile.info(tmp_path / "stdin_spk1.wav").frames < 35000
    (report,) = json.loads((tmp_path / "report").read_text())
    assert "NaN" in report["broken_off"]


def test_live_voices_stay_within_full_scale(model, pipe):
    rng = np.random.default_rng(0)
    loud = (rng.normal(0, 0.05, 16000) * np.where(np.arange(16000) > 9000, 6, 1)).clip(-1, 1)
    for level in ("match-mix", "peak", "none"):
        stdout = pipe(wav(loud * 100, 8000, "FLOAT"))
        assert infer("-", "--live", "--segment", 0.05, "--level", level, "--model", model) == 0
        assert len(stdout.getvalue()) == 44 + 4 * 16000
