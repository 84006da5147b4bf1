import tempfile
import tracemalloc
from contextlib import ExitStack

import numpy as np
import pytest
import soundfile
from helpers.separators import tiny_separator

from spikesep.errors import SpikeSepError
from spikesep.separation.inference.in_memory import Model
from spikesep.separation.pages.uploads import Limits, read_upload, separate_upload


@pytest.fixture
def unnamed_file():
    """Return a function that opens an empty unnamed file."""
    with ExitStack() as files:
        yield lambda: files.enter_context(tempfile.TemporaryFile())


def test_too_long_upload_is_rejected_in_constant_memory(unnamed_file):
    """Silence at the highest rate of FLAC: 40 million samples in few bytes."""
    file, silence = unnamed_file(), np.zeros(2**20, np.int16)
    with soundfile.SoundFile(file, "w", 655_350, 1, format="FLAC") as flac:
        for _ in range(40):
            flac.write(silence)
    file.flush()
    tracemalloc.start()
    try:
        with pytest.raises(
            SpikeSepError, match=r"talk\.flac: contains more than 28,800,000 samples"
        ):
            read_upload(file, "talk.flac", Limits(50, 300), unnamed_file())
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_voices_equal_those_of_the_model(unnamed_file):
    model = Model(tiny_separator())
    samples = np.random.default_rng(0).normal(size=(9000, 2)).astype(np.float32)
    upload, voices, shares = unnamed_file(), [unnamed_file(), unnamed_file()], []
    soundfile.write(upload, samples, 8000, format="WAV", subtype="FLOAT")
    upload.flush()
    recording = read_upload(upload, "talk.wav", Limits(50, 300), unnamed_file())
    separate_upload(model, recording, voices, 0.2, shares.append)
    assert shares[-1] == 1
    assert len(shares) >= 5
    heard, peak = samples.mean(1), np.abs(samples.mean(1)).max()
    assert peak > 1
    pcm = np.frombuffer(b"".join(recording.pcm_blocks())[44:], "<i2") / 32768
    np.testing.assert_allclose(pcm, heard / peak, atol=4e-5)
    for file, voice in zip(voices, model.separate(heard, 8000), strict=True):
        file.seek(0)
        np.testing.assert_allclose(soundfile.read(file)[0], voice, atol=4e-5)


def test_file_that_only_calls_itself_gsm_is_rejected(unnamed_file):
    file = unnamed_file()
    file.write(b"no frames of GSM 06.10, which begin with 0xD. " * 100)
    file.flush()
    with pytest.raises(SpikeSepError, match=r"notes\.gsm: not a readable audio file"):
        read_upload(file, "notes.gsm", Limits(), unnamed_file())
