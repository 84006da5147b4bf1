import json
import sys

import pytest
from helpers.infer import infer, write_tones
from numba.core.event import trigger_event

from spikesep.separation.inference import batch


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--modle", "x"], "modle"),
        (["--level", "loud"], "level"),
        (["--segment", "0"], "--segment 0"),
        (["--network", "rnn"], "network"),
        (["--engine", "steam"], "engine"),
        (["--device", "tpu9"], "--device tpu9"),
        (["--model", "nowhere"], "nowhere"),
        (["--channels", "left"], "channels"),
        (["--channels", "0"], "--channels 0: give mix, each, or a channel's number"),
        (
            ["--resume", "--overwrite"],
            "--resume: continues a batch of files; leave out --overwrite",
        ),
    ],
    ids=lambda v: "".join(v) if isinstance(v, list) else "",
)
def test_wrong_option_is_one_line_and_status_2(tmp_path, model, capsys, argv, message):
    write_tones(tmp_path, "a.wav", n=400)
    assert infer(tmp_path / "a.wav", "--out-dir", tmp_path / "out", "--model", model, *argv) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def no_sounddevice(tmp_path, monkeypatch):
    """Work in an empty folder, without sounddevice."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a.wav", "--live"], "--live"),
        (["-", "a.wav"], "standard input goes alone"),
        (["a.wav", "--raw", "8000"], "--raw 8000"),
        (["-", "--raw", "0"], "--raw 0"),
        (["-", "--raw", "10"], "sample rate of 10 Hz"),
        (["-", "--live"], "no wav stream"),
        (["-"], "not a readable audio file"),
        (["-", "--resume"], "--resume: continues a batch of files"),
        (["-", "--channels", "2", "--raw", "8000"], "--channels 2: the recording has 1"),
        (["mic", "--live"], "sounddevice"),
        (["a.wav", "--jobs", "-1"], "--jobs -1"),
        (["a.wav", "--steps", "0"], "--steps 0"),
        (["a.wav", "--steps", "4", "--network", "ann"], "--steps 4: only a network"),
        (["a.wav", "--segment", "nan"], "segment"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
@pytest.mark.usefixtures("no_sounddevice")
def test_conflicting_options_are_one_line_and_status_2(
    tmp_path, model, capsys, pipe, argv, message
):
    stdout = pipe(b"hello, I am no recording at all")
    assert infer(*argv, "--model", model) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not stdout.getvalue()
    assert not list(tmp_path.iterdir())


def test_engines_write_identical_voices_and_are_reported(tmp_path, model):
    write_tones(tmp_path, "a.wav", n=8000)
    voices = {}
    for engine in ("auto", "dense", "event"):
        out, report = tmp_path / engine, tmp_path / f"{engine}.json"
        argv = (
            tmp_path / "a.wav",
            "--model",
            model,
            "--out-dir",
            out,
            "--engine",
            engine,
            "--json",
            report,
        )
        assert infer(*argv) == 0
        voices[engine] = [(out / f"a_spk{k}.wav").read_bytes() for k in (1, 2)]
        (found,) = json.loads(report.read_text())
        if engine != "auto":
            assert found["engines"]["dilated2"] == f"{engine}: as asked for"
        assert found["engines"]["bottleneck"] == "dense: the input is analog"
    assert voices["dense"] == voices["event"] == voices["auto"]


def test_analog_network_can_be_chosen(tmp_path, model, capsys):
    write_tones(tmp_path, "a.wav", n=4000)
    assert (
        infer(tmp_path / "a.wav", "--model", model, "--network", "ann", "--out-dir", tmp_path) == 0
    )
    assert "MACs" in capsys.readouterr().out


@pytest.mark.parametrize("table", ["45nm", "7nm"])
def test_energies_of_the_chosen_process_are_reported(tmp_path, model, capsys, table):
    write_tones(tmp_path, "a.wav", n=4000)
    report = tmp_path / "report.json"
    argv = ("--model", model, "--out-dir", tmp_path, "--json", report, "--energy-table", table)
    assert infer(tmp_path / "a.wav", *argv) == 0
    (found,) = json.loads(report.read_text())
    assert found["energy"]["table"] == table
    assert {"snn", "ann_int8", "encoder"} <= {row["key"] for row in found["energy"]["rows"]}
    assert found["energy"]["summary"] in capsys.readouterr().out


def test_time_steps_can_be_changed(tmp_path, model):
    write_tones(tmp_path, "a.wav", n=4000)
    synops = {}
    for steps in (2, 8, 16):
        report = tmp_path / f"{steps}.json"
        argv = (
            tmp_path / "a.wav",
            "--model",
            model,
            "--out-dir",
            tmp_path / str(steps),
            "--json",
            report,
        )
        assert infer(*argv, "--steps", steps) == 0
        cost = json.loads(report.read_text())[0]["cost"]
        assert cost["n_steps"] == steps
        synops[steps] = cost["synops"]
    assert synops[2] < synops[8] < synops[16]


def test_compilation_is_announced_on_a_terminal(tmp_path, model, capsys, monkeypatch):
    write_tones(tmp_path, "a.wav")

    def separate(*_):
        with trigger_event("numba:compile"):
            return {"recording": "a.wav", "error": "a.wav: no matter"}

    monkeypatch.setattr(batch, "separate_file", separate)
    argv = (tmp_path / "a.wav", "--model", model, "--out-dir", tmp_path / "out")
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        assert infer(*argv) == 2
        assert ("compiling the spiking layers" in capsys.readouterr().err) == terminal
