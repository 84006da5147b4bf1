import io
import os
import signal
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.wav import read_samples
from spikesep.separation.inference import microphone
from spikesep.separation.inference.live import pipe_sound, until_stopped
from spikesep.separation.inference.microphone import microphone_sound


def test_missing_sounddevice_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SpikeSepError, match="pip install sounddevice"):
        microphone_sound(print)


def test_microphone_is_recorded_until_it_is_unplugged(monkeypatch):
    class Device:
        signal = ((0.5, False), (0.25, True), (0.125, True))

        def __init__(self, samplerate, channels, dtype, blocksize, callback):
            assert (samplerate, channels, dtype, blocksize) == (48000, 1, "float32", 480)
            self.callback = callback

        def __enter__(self):
            for level, overflow in self.signal:
                memory = np.full((480, 1), level, np.float32)
                self.callback(memory, 480, None, SimpleNamespace(input_overflow=overflow))
                memory[:] = 9  # PortAudio reuses its buffer

        def __exit__(self, *_):
            pass

    class Module:
        PortAudioError = RuntimeError
        InputStream = Device

        @staticmethod
        def query_devices(kind):
            return {"default_samplerate": 48000.0}

    monkeypatch.setitem(sys.modules, "sounddevice", Module)
    monkeypatch.setattr(microphone, "TIMEOUT", 0.01)
    told = []
    sound = microphone_sound(told.append)
    assert sound.sample_rate == 48000
    for level in (0.5, 0.25, 0.125):
        np.testing.assert_array_equal(next(sound.blocks), np.full((1, 480), level))
    with pytest.raises(SpikeSepError, match="no samples from the microphone"):
        next(sound.blocks)
    (lost,) = told
    assert "samples were lost" in lost
    n_kept = round(microphone.MAX_DELAY / microphone.BLOCK_SECONDS)
    Device.signal, told[:] = [(0.5, False)] * (n_kept + 1), []
    kept = until_stopped(microphone_sound(told.append).blocks, print)
    assert sum(1 for _ in kept) == n_kept
    assert told == [lost]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_a_recording_and_handlers_are_restored(number):
    before, seen, faults = signal.getsignal(number), [], []
    for block in until_stopped((np.array([k]) for k in range(10)), faults.append):
        seen.append(int(block[0]))
        if seen[-1] == 3:
            os.kill(os.getpid(), number)
            assert signal.getsignal(number) is before
    assert seen == [0, 1, 2, 3]
    assert not faults
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_a_recording_that_delivers_nothing(number):
    end, source = os.pipe()
    with open(end, "rb") as pipe, open(source, "wb", buffering=0) as writing:
        writing.write(np.zeros(100, "<i2").tobytes())
        seen = until_stopped(read_samples(pipe, 1, "<i2", None), print)
        assert next(seen).shape == (1, 100)
        timer = threading.Timer(0.2, os.kill, (os.getpid(), number))
        timer.start()
        assert list(seen) == []
        timer.join()


def test_error_after_the_first_samples_ends_a_recording():
    def blocks(*sizes):
        yield from map(np.zeros, sizes)
        raise SpikeSepError("unplugged")

    faults = []
    assert [len(block) for block in until_stopped(blocks(1, 2), faults.append)] == [1, 2]
    assert faults == ["unplugged"]
    for nothing in ((), (0,)):
        with pytest.raises(SpikeSepError, match="unplugged"):
            list(until_stopped(blocks(*nothing), faults.append))


def test_ignored_sighup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        blocks = until_stopped((np.array([k]) for k in range(3)), print)
        seen = [next(blocks)]
        os.kill(os.getpid(), signal.SIGHUP)
        assert len([*seen, *blocks]) == 3
    finally:
        signal.signal(signal.SIGHUP, before)


def test_empty_pipe_is_reported():
    with pytest.raises(SpikeSepError, match="standard input: is empty"):
        pipe_sound(io.BufferedReader(io.BytesIO()), None)
