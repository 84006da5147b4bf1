import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.infer import infer, write_tones
from helpers.separators import save_tiny_experiment
from helpers.tracks import tiny_embedder

from spikesep.separation.tracks.embedder import save_embedder


@pytest.fixture(autouse=True)
def recordings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tones(tmp_path, "a.wav", "b.wav", n=8000)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return save_tiny_experiment(tmp_path_factory.mktemp("three"), n_speakers=3)


def names(folder):
    return sorted(path.name for path in folder.glob("*.wav"))


def report(*argv):
    assert infer("a.wav", *argv, "--json", "r.json", "--overwrite") == 0
    return json.loads(Path("r.json").read_text())[0]


@pytest.fixture
def hear(monkeypatch):
    """Let the outputs of a separator be active for certain seconds."""
    from spikesep.separation.inference import voices

    def set_seconds(*seconds):
        monkeypatch.setattr(voices.VoiceChooser, "_seconds", lambda self, k: np.array(seconds))

    return set_seconds


def test_all_outputs_are_written_unasked(tmp_path, three, hear):
    hear(2.0, 0.0, 1.0)
    found = report("--model", three, "--out-dir", "o")
    assert found["heard"] == [2]
    assert names(tmp_path / "o") == ["a_spk1.wav", "a_spk2.wav", "a_spk3.wav"]


def test_auto_writes_the_voices_that_are_heard(tmp_path, three, hear, capsys):
    hear(2.0, 0.0, 1.0)
    everything = report("--model", three, "--out-dir", "o")["voices"]
    found = report("--model", three, "--out-dir", "auto", "--voices", "auto")
    assert found["heard"] == [2]
    assert found["voices"] == ["auto/a_spk1.wav", "auto/a_spk2.wav"]
    assert "heard 2 voices" in capsys.readouterr().out
    for kept, file in zip((0, 2), found["voices"], strict=True):
        assert Path(file).read_bytes() == Path(everything[kept]).read_bytes()


def test_a_number_writes_the_most_active_voices(tmp_path, three, hear):
    hear(1.0, 0.2, 1.5)
    assert report("--model", three, "--out-dir", "o", "--voices", "1")["heard"] == [2]
    everything = report("--model", three, "--out-dir", "all")["voices"]
    assert names(tmp_path / "o") == ["a_spk1.wav"]
    assert (tmp_path / "o" / "a_spk1.wav").read_bytes() == Path(everything[2]).read_bytes()


def test_voices_that_are_no_longer_heard_are_removed(tmp_path, three, hear):
    hear(1.0, 1.0, 1.0)
    report("--model", three, "--out-dir", "o", "--voices", "auto")
    hear(1.0, 1.0, 0.0)
    report("--model", three, "--out-dir", "o", "--voices", "auto")
    assert names(tmp_path / "o") == ["a_spk1.wav", "a_spk2.wav"]


def test_a_batch_of_unknown_numbers_is_resumed(tmp_path, three, hear, capsys):
    hear(1.0, 1.0, 0.0)
    options = ("--model", three, "--out-dir", "o", "--voices", "auto")
    assert infer("a.wav", *options) == 0
    before = os.stat(tmp_path / "o" / "a_spk1.wav").st_mtime_ns
    assert infer("a.wav", "b.wav", *options, "--resume") == 0
    assert "1 of 2 recordings skipped" in capsys.readouterr().err
    assert os.stat(tmp_path / "o" / "a_spk1.wav").st_mtime_ns == before
    assert names(tmp_path / "o") == [f"{x}_spk{k}.wav" for x in "ab" for k in (1, 2)]


def test_channels_have_as_many_voices_as_the_fullest(tmp_path, three, hear):
    write_tones(tmp_path, "c.wav")
    samples = np.random.default_rng(0).normal(0, 0.1, (8000, 2))
    soundfile.write("c.wav", samples, 8000)
    hear(1.0, 1.0, 0.0)
    infer("c.wav", "--model", three, "--out-dir", "o", "--channels", "each", "--voices", "auto")
    assert names(tmp_path / "o") == [f"c_ch{c}_spk{k}.wav" for c in (1, 2) for k in (1, 2)]


def test_turns_have_the_numbers_of_the_files(tmp_path, monkeypatch):
    from spikesep.separation.tracks import tracker
    from spikesep.separation.tracks.rttm import Turn

    model = save_tiny_experiment(tmp_path / "model", n_speakers=3)
    save_embedder(tiny_embedder(spiking=True), model / "tracks")
    turns = [Turn(0.0, 0.5, 1), Turn(0.2, 0.3, 2), Turn(0.4, 1.0, 3)]
    monkeypatch.setattr(tracker.GatedStream, "turns", property(lambda self: turns))
    found = report("--model", model, "--voices", "2", "--out-dir", "o", "--rttm", "r.rttm")
    assert [turn["speaker"] for turn in found["turns"][0]] == [1, 2]
    lines = [line.split() for line in Path("r.rttm").read_text().splitlines()]
    assert [(line[3], line[7]) for line in lines] == [("0.00", "spk1"), ("0.40", "spk2")]


def test_silence_has_one_voice(tmp_path, three):
    soundfile.write("a.wav", np.zeros(8000), 8000)
    found = report("--model", three, "--out-dir", "o", "--voices", "auto")
    assert found["heard"] == [0]
    assert names(tmp_path / "o") == ["a_spk1.wav"]


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--voices", "4"], "--voices 4: this model separates 3"),
        (["--voices", "0"], "--voices 0: give all, auto, or a number from 1"),
        (["--voices", "auto", "--live"], "--voices auto: cannot be known while"),
        (["--voices", "some"], "voices"),
    ],
    ids=str,
)
def test_impossible_numbers_are_errors_of_one_line(three, capsys, argv, reason):
    recording = "-" if "--live" in argv else "a.wav"
    assert infer(recording, "--model", three, *argv) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
