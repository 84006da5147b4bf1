"""Who speaks when in the responses of the server."""

import io
from dataclasses import asdict, replace

import numpy as np
import pytest
import soundfile
from helpers.separators import tiny_separator
from helpers.tracks import tiny_embedder
from helpers.web.serve import read_response, recording, send_request, serving

from spikesep.separation.inference.in_memory import Model
from spikesep.separation.inference.report import Separation
from spikesep.separation.inference.voices import activity_of_outputs
from spikesep.separation.pages.uploads import Upload, describe_separation
from spikesep.separation.tracks.rttm import Turn, turns_of_activity
from spikesep.spiking.cost import Cost

RATE = 8000


def separate(model, content) -> tuple[dict, dict[str, bytes]]:
    """Return the report and the files of a recording."""
    with serving(model) as service:
        status, _, answer = send_request(service, "POST", "/separate", content)
    assert status == 200
    lines, files = read_response(answer)
    return lines[-1]["report"], files


def syllables(seconds=20.0) -> bytes:
    """Encode tones of two pitches that take turns."""
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = np.where(time % 4 < 2, 200, 1500)
    samples = 0.2 * np.sin(2 * np.pi * pitch * time) * (time % 2 < 1.5)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


@pytest.mark.parametrize("spiking", [False, True])
def test_turns_are_those_of_the_tracks(spiking):
    content = syllables()
    model = Model(tiny_separator(), embedder=tiny_embedder(spiking))
    report, _ = separate(model, content)
    samples = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    expected = model.separate_recording(samples, RATE, segment_seconds=10.0).turns[0]
    assert expected
    assert report["turns"] == [asdict(turn) for turn in expected]
    assert report["follows"]
    assert report["heard"] == [1, 2]


@pytest.mark.parametrize("n_speakers", [1, 2, 4])
def test_without_an_embedder_turns_are_the_times_in_which_the_voices_are_active(n_speakers):
    content = syllables(20)  # longer than the blocks in which voices are written
    report, files = separate(Model(tiny_separator(n_speakers=n_speakers)), content)
    names = [f"voice{k + 1}" for k in range(n_speakers)]
    assert list(files) == ["mixture", *names]
    mixture = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    voices = [soundfile.read(io.BytesIO(files[name]), dtype="float32")[0] for name in names]
    active = activity_of_outputs(np.stack(voices), mixture, RATE)
    assert report["turns"]
    assert report["turns"] == [asdict(turn) for turn in turns_of_activity(active)]
    assert not report["follows"]


def test_voices_are_heard_that_are_active_for_long_enough():
    upload = Upload("talk.wav", RATE, 1, 60 * RATE, 0.5, io.BytesIO())
    turns = (Turn(0, 20, 1), Turn(5, 5.3, 2), Turn(20, 24, 3))  # the second: less than 0.4 s
    separation = Separation(60.0, 1.0, Cost(), turns=(turns,), heard=(2,))
    model = Model(tiny_separator(n_speakers=3))
    report = describe_separation(model, upload, separation, 1.0)
    assert report["heard"] == [1, 3]
    assert "heard 2 voices" in report["summary"]
    not_counted = describe_separation(model, upload, replace(separation, heard=()), 1.0)
    assert not_counted["heard"] == [1, 2, 3]


def test_silence_has_no_turns():
    report, _ = separate(Model(tiny_separator(n_speakers=3)), recording(0.5)[:44] + bytes(8000))
    assert report["turns"] == []
    assert report["heard"] == []
