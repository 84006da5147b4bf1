import tempfile
import tracemalloc
from contextlib import ExitStack

import numpy as np
import pytest
import soundfile
import torch

from spikesep.errors import SpikeSepError
from spikesep.separation.config import SeparatorConfig
from spikesep.separation.inference.separate import Model
from spikesep.separation.model.separator import Separator
from spikesep.separation.pages.uploads import Limits, read_upload, separate_upload


@pytest.fixture
def nameless():
    """Open an empty file without a name."""
    with ExitStack() as files:
        yield lambda: files.enter_context(tempfile.TemporaryFile())


def test_samples_are_counted_as_they_are_decoded_in_memory_that_does_not_grow(nameless):
    """Silence at the highest rate that FLAC knows: 40 million samples in few bytes."""
    file, silence = nameless(), np.zeros(2**20, np.int16)
    with soundfile.SoundFile(file, "w", 655_350, 1, format="FLAC") as flac:
        for _ in range(40):
            flac.write(silence)
    file.flush()
    tracemalloc.start()
    try:
        with pytest.raises(SpikeSepError, match=r"talk\.flac: holds more than 28,800,000 samples"):
            read_upload(file, "talk.flac", Limits(50, 300), nameless())
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_voices_are_those_of_the_model_and_the_mixture_stays_within_full_scale(nameless):
    torch.manual_seed(0)
    model = Model(Separator(SeparatorConfig(n_filters=16, n_channels=8, dilations=[1, 2])))
    samples = np.random.default_rng(0).normal(size=(9000, 2)).astype(np.float32)
    upload, voices, shares = nameless(), [nameless(), nameless()], []
    soundfile.write(upload, samples, 8000, format="WAV", subtype="FLOAT")
    upload.flush()
    recording = read_upload(upload, "talk.wav", Limits(50, 300), nameless())
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
