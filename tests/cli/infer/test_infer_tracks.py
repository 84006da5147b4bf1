import json

import pytest
import soundfile
from helpers.infer import infer, tone, write_tones
from helpers.separators import save_tiny_experiment
from helpers.tracks import tiny_embedder

from spikesep.separation.tracks.embedder import save_embedder


@pytest.fixture
def plain(tmp_path):
    return save_tiny_experiment(tmp_path / "plain")


@pytest.fixture
def model(tmp_path):
    folder = save_tiny_experiment(tmp_path / "model")
    save_embedder(tiny_embedder(spiking=True), folder / "tracks")
    return folder


@pytest.fixture(autouse=True)
def recordings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tones(tmp_path, "a.wav", "b.wav", n=16000)


def voices(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.wav")}


def test_off_gives_the_voices_of_a_model_without_embedder(tmp_path, plain, model):
    assert infer("a.wav", "--model", plain, "--out-dir", "o1") == 0
    assert infer("a.wav", "--model", model, "--out-dir", "o2", "--tracks", "off") == 0
    assert voices(tmp_path / "o1") == voices(tmp_path / "o2")


def test_rttm_and_report_say_who_spoke_when(tmp_path, model):
    options = ("--model", model, "--out-dir", "o", "--rttm", "r.rttm", "--json", "r.json")
    assert infer("a.wav", "b.wav", *options) == 0
    lines = [line.split() for line in (tmp_path / "r.rttm").read_text().splitlines()]
    reports = json.loads((tmp_path / "r.json").read_text())
    assert {line[1] for line in lines} == {"a", "b"}
    assert all(len(line) == 10 and line[0] == "SPEAKER" for line in lines)
    assert len(lines) == sum(len(turns) for report in reports for turns in report["turns"])
    assert all(float(line[3]) >= 0 and float(line[3]) + float(line[4]) <= 2.0 for line in lines)


def test_channels_have_turns_of_their_own(tmp_path, model):
    soundfile.write("stereo.wav", tone(16000, channels=2), 8000)
    options = ("--model", model, "--out-dir", "o", "--rttm", "r.rttm", "--channels", "each")
    assert infer("stereo.wav", *options) == 0
    lines = [line.split() for line in (tmp_path / "r.rttm").read_text().splitlines()]
    assert {(line[1], line[2]) for line in lines} == {("stereo", "1"), ("stereo", "2")}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--tracks", "off"], "cannot be combined with --tracks off"),
        (["--resume"], "cannot be combined with --resume"),
    ],
)
def test_rttm_refuses_what_contradicts_it(model, capsys, options, reason):
    assert infer("a.wav", "--model", model, "--rttm", "r.rttm", *options) == 2
    assert f"--rttm r.rttm: {reason}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rttm", "reason"),
    [
        ("r.json", "r.json: is the file of --json"),
        ("a.wav", "a.wav: is one of the recordings"),
        ("o/a_spk1.wav", "o/a_spk1.wav: is the output file of a voice"),
        ("b.wav/r.rttm", "b.wav/r.rttm: b.wav is not a folder"),
    ],
)
def test_rttm_takes_the_place_of_no_other_file(tmp_path, model, capsys, rttm, reason):
    options = ("--model", model, "--out-dir", "o", "--json", "r.json", "--overwrite")
    assert infer("a.wav", *options, "--rttm", rttm) == 2
    error = capsys.readouterr().err
    assert f"{reason}; give another --rttm" in error.replace(f"{tmp_path}/", "")
    assert not (tmp_path / "o").exists()


def test_rttm_is_not_overwritten_unasked(tmp_path, model, capsys):
    (tmp_path / "r.rttm").write_text("mine")
    assert infer("a.wav", "--model", model, "--out-dir", "o", "--rttm", "r.rttm") == 2
    assert "already exists" in capsys.readouterr().err
    assert (tmp_path / "r.rttm").read_text() == "mine"
    assert not (tmp_path / "o").exists()


def test_rttm_needs_an_embedder(plain, capsys):
    assert infer("a.wav", "--model", plain, "--rttm", "r.rttm") == 2
    assert "has no embedder of speakers" in capsys.readouterr().err


def test_a_damaged_embedder_is_an_error_of_one_line(model, capsys):
    (model / "tracks" / "model.safetensors").write_bytes(b"")
    assert infer("a.wav", "--model", model, "--out-dir", "o") == 2
    error = capsys.readouterr().err
    assert "tracks" in error
    assert len(error.splitlines()) == 1
