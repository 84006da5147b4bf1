import json
import os
import signal

import pytest
import soundfile
from helpers.infer import infer, tone, tree, write_tones

from spikesep.separation.inference import inputs, on_disk


def test_batch_continues_after_a_bad_recording(tmp_path, model, capsys):
    write_tones(tmp_path, "good.wav", n=4000)
    report = tmp_path / "report.json"
    argv = (
        tmp_path / "bad.wav",
        tmp_path / "good.wav",
        "--model",
        model,
        "--out-dir",
        tmp_path,
        "--json",
        report,
    )
    assert infer(*argv) == 2
    assert (tmp_path / "good_spk2.wav").exists()
    bad, good = json.loads(report.read_text())
    assert "no such audio file" in bad["error"]
    assert good["network"] == "snn"
    assert good["cost"]["synops"] > 0
    assert "1 of 2" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_folders_keep_their_layout_with_any_number_of_processes(
    tmp_path, model, capsys, monkeypatch, jobs
):
    write_tones(tmp_path, "in/a.wav", "in/deep/b.flac", "c.wav")
    (tmp_path / "in" / "bad.wav").write_text("no audio")
    out, report = tmp_path / "out", tmp_path / "report.json"
    argv = (
        tmp_path / "in",
        f"{tmp_path}/*.wav",
        "--model",
        model,
        "--out-dir",
        out,
        "--jobs",
        jobs,
        "--json",
        report,
    )
    assert infer(*argv) == 2
    assert tree(out) == [
        "a_spk1.wav",
        "a_spk2.wav",
        "c_spk1.wav",
        "c_spk2.wav",
        "deep/b_spk1.wav",
        "deep/b_spk2.wav",
    ]
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert "1 of 4 recordings could not be separated" in printed.err
    assert [("error" in entry) for entry in json.loads(report.read_text())] == [
        False,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("out", ["day/voices", "day", "voices"])
def test_second_run_ignores_output_of_the_first(tmp_path, model, capsys, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    os.mkdir("day")
    soundfile.write("day/a.wav", tone(800), 8000)
    (tmp_path / "day" / "notes.txt").touch()
    argv = ("day", "--model", model, "--out-dir", out)
    assert infer(*argv) == 0
    made = tree(tmp_path)
    assert infer(*argv, "--overwrite") == 0
    assert "left out 1 file without an audio suffix (.txt 1)" in capsys.readouterr().err
    assert infer(*argv) == 2
    assert "already exists; give --overwrite to replace it, --resume" in capsys.readouterr().err
    soundfile.write("day/b.wav", tone(800), 8000)
    assert infer(*argv, "--resume") == 0
    printed = capsys.readouterr()
    assert "1 of 2 recordings skipped" in printed.err
    assert [line.partition(" ")[0] for line in printed.out.splitlines()] == ["day/b.wav"]
    assert tree(tmp_path) == sorted([*made, "day/b.wav", f"{out}/b_spk1.wav", f"{out}/b_spk2.wav"])


def test_resume_completes_partial_voices(tmp_path, model):
    write_tones(tmp_path, "a.wav", "b.wav")
    argv = (tmp_path / "a.wav", tmp_path / "b.wav", "--model", model, "--out-dir", tmp_path / "out")
    assert infer(*argv) == 0
    whole = {name: (tmp_path / "out" / name).read_bytes() for name in tree(tmp_path / "out")}
    kept = (tmp_path / "out" / "a_spk1.wav").stat().st_ino
    (tmp_path / "out" / "b_spk1.wav").unlink()
    (tmp_path / "out" / "b_spk2.wav").write_bytes(b"half")
    (tmp_path / "out" / ".spikesep-locked-0.1.part.wav").touch()  # of a killed process
    assert infer(*argv, "--resume", "--json", tmp_path / "report") == 0
    assert {
        name: (tmp_path / "out" / name).read_bytes() for name in tree(tmp_path / "out")
    } == whole
    assert (tmp_path / "out" / "a_spk1.wav").stat().st_ino == kept
    assert "skipped" in json.loads((tmp_path / "report").read_text())[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_leaves_no_partial_files(tmp_path, model, capsys, monkeypatch, number):
    write_tones(tmp_path, "a.wav", "b.wav")
    append = on_disk.to_pcm16

    def interrupted(voices):
        assert len(list((tmp_path / "out").glob(".*.part.wav"))) == 2
        os.kill(os.getpid(), number)
        return append(voices)

    monkeypatch.setattr(on_disk, "to_pcm16", interrupted)
    before = signal.getsignal(number)
    argv = (tmp_path / "a.wav", tmp_path / "b.wav", "--model", model, "--out-dir", tmp_path / "out")
    assert infer(*argv) == 128 + number
    assert list((tmp_path / "out").iterdir()) == []
    assert "stopped after 0 of 2 recordings; --resume continues" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_batch_continues_after_unexpected_errors(tmp_path, model, capsys, monkeypatch):
    names = ("a.wav", "b.wav", "x" * 250 + ".wav")
    write_tones(tmp_path, *names)
    opened = inputs.open_audio

    def fail(path, *options):
        if path.name == "a.wav":
            raise TypeError("samplerate must be specified")
        return opened(path, *options)

    monkeypatch.setattr(inputs, "open_audio", fail)
    assert (
        infer(*(tmp_path / name for name in names), "--model", model, "--out-dir", tmp_path / "out")
        == 2
    )
    assert tree(tmp_path / "out") == ["b_spk1.wav", "b_spk2.wav"]
    error = capsys.readouterr().err
    assert (
        "a.wav: unexpected TypeError (samplerate must be specified); please report this as a bug"
        in error
    )
    assert "this name has 259 bytes, the limit is 255; rename the recording" in error
    assert "2 of 3 recordings could not be separated" in error
