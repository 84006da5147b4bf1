import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import soundfile
from helpers.separators import tiny_separator

from spikesep.separation.audio.files import open_audio, read_channels
from spikesep.separation.inference.in_memory import Model
from spikesep.separation.inference.on_disk import separate_sound
from spikesep.separation.inference.outputs import open_voice_files


def test_long_file_is_not_read_when_opened(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(800_000), 8000)
    sound = open_audio(tmp_path / "a.flac")
    assert (sound.sample_rate, sound.channels, sound.length) == (8000, 1, 800_000)
    assert next(sound.blocks).shape[1] < 800_000


MEASURE = """
import resource, sys
import soundfile, torch
from pathlib import Path
from spikesep.separation.inference.in_memory import load_model
from spikesep.separation.audio.files import open_audio
from spikesep.separation.inference.on_disk import separate_sound
from spikesep.separation.inference.outputs import open_voice_files
torch.set_num_threads(1)
model, sound, out = load_model(sys.argv[1]), open_audio(Path(sys.argv[2])), Path(sys.argv[3])
def write(n_samples, n_voices, blocks):
    with open_voice_files([out / "1.wav", out / "2.wav"], sound.sample_rate, n_samples) as append:
        for block in blocks:
            append(block)
separate_sound(model, sound, out, write, level="match-mix", segment_seconds=5.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(kept_experiment, tmp_path):
    """Samples and voices of 11 more minutes would take 11 * 60 * 16000 * 3 * 4 B = 127 MB."""
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


def write_files(paths, sample_rate, n_samples, n_voices, blocks):
    assert n_voices == len(paths)
    with open_voice_files(paths, sample_rate, n_samples) as append:
        for block in blocks:
            append(block)


def test_separation_on_disk_equals_separation_in_memory(tmp_path):
    model = Model(tiny_separator())
    wave = np.random.default_rng(0).normal(0, 0.1, (30000, 2)).clip(-1, 1)
    soundfile.write(tmp_path / "a.wav", wave, 22050, subtype="FLOAT")
    paths = [tmp_path / "1.wav", tmp_path / "2.wav"]
    for level in ("match-mix", "peak", "none"):
        sound = open_audio(tmp_path / "a.wav")
        write = partial(write_files, paths, 22050)
        separation = separate_sound(model, sound, tmp_path, write, level=level, segment_seconds=0.3)
        whole = model.separate_recording(wave.T.astype(np.float32), 22050, level)
        written = np.stack([read_channels(path)[0][0] for path in paths])
        np.testing.assert_allclose(written, whole.estimates, rtol=0, atol=0.5 / 32768 + 1e-5)
        assert separation.scale == pytest.approx(whole.scale)
        assert separation.seconds == pytest.approx(30000 / 22050)
