import os
import resource

import numpy as np
import pytest
import soundfile
from helpers.infer import infer, tone, tree, write_tones

GOOD = {
    "8k.wav": (8000, 1, {}),
    "44k stereo.wav": (44100, 2, {}),
    "5 channels.flac": (16000, 5, {}),
    "24 bit.wav": (8000, 1, {"subtype": "PCM_24"}),
    "float.wav": (48000, 1, {"subtype": "FLOAT"}),
    "vorbis.ogg": (22050, 1, {}),
    "music.mp3": (32000, 2, {}),
    "wörter 語.wav": (8000, 1, {}),
    "one.sample.wav": (8000, 1, {}),
}


@pytest.mark.parametrize(("name", "about"), GOOD.items(), ids=GOOD)
def test_voices_have_the_format_of_the_recording(tmp_path, model, capsys, name, about):
    rate, channels, how = about
    n = 1 if name.startswith("one") else rate // 2
    soundfile.write(tmp_path / name, tone(n, channels), rate, **how)
    assert infer(tmp_path / name, "--model", model, "--out-dir", tmp_path / "out") == 0
    n_read = soundfile.info(tmp_path / name).frames
    for k in (1, 2):
        voice = soundfile.info(tmp_path / "out" / f"{name.rsplit('.', 1)[0]}_spk{k}.wav")
        assert (voice.samplerate, voice.channels, voice.frames, voice.subtype) == (
            rate,
            1,
            n_read,
            "PCM_16",
        )
    line = capsys.readouterr().out
    assert "real-time factor" in line
    assert "SynOps" in line
    assert ("channels averaged" in line) == (channels > 1)


BAD = {
    "missing": (lambda p: None, "no such audio file"),
    "text": (lambda p: p.write_text("hello"), "not a readable audio file"),
    "empty": (lambda p: p.write_bytes(b""), "is empty (0 bytes); copy or record it again"),
    "no samples": (lambda p: soundfile.write(p, np.zeros(0), 8000), "no samples"),
    "nan": (lambda p: soundfile.write(p, np.array([0.1, np.nan]), 8000, subtype="FLOAT"), "NaN"),
    "a folder": (
        lambda p: p.mkdir(),
        "a folder without audio files; give another folder, or name a file in it",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD)
def test_bad_recording_is_one_line_and_status_2(tmp_path, model, capsys, damage, message):
    path = tmp_path / "bad.wav"
    damage(path)
    assert infer(path, "--model", model, "--out-dir", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("spikesep-infer: error:")
    assert str(path) in error
    assert message in error
    assert "\n" not in error
    assert not list(tmp_path.glob("out/*"))


def test_files_are_overwritten_only_on_request(tmp_path, model, capsys):
    write_tones(tmp_path, "a.wav", n=4000)
    (tmp_path / "a_spk2.wav").write_text("precious")
    argv = (tmp_path / "a.wav", "--model", model, "--out-dir", tmp_path)
    assert infer(*argv) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "a_spk2.wav").read_text() == "precious"
    assert not (tmp_path / "a_spk1.wav").exists()
    assert infer("--overwrite", *argv) == 0
    assert soundfile.info(tmp_path / "a_spk2.wav").frames == 4000


def test_recordings_with_equal_names_get_separate_voices(tmp_path, model):
    write_tones(tmp_path, "x/a.wav", "y/a.wav", "y/b.wav", "y/b.flac")
    argv = (tmp_path / "x", tmp_path / "y", "--model", model, "--out-dir", tmp_path / "out")
    assert infer(*argv) == 0
    names = ("b.flac", "b.wav", "x/a", "y/a")
    assert tree(tmp_path / "out") == [f"{name}_spk{k}.wav" for name in names for k in (1, 2)]


def test_recordings_are_never_overwritten(tmp_path, model, capsys):
    write_tones(tmp_path, "a.wav", "a_spk1.wav", n=400)
    argv = (
        tmp_path / "a.wav",
        tmp_path / "a_spk1.wav",
        "--model",
        model,
        "--out-dir",
        tmp_path,
        "--overwrite",
    )
    assert infer(*argv) == 2
    assert "is one of the recordings" in capsys.readouterr().err


def test_report_never_replaces_another_file(tmp_path, model, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "b.wav"):
        soundfile.write(name, tone(800), 8000)
    os.mkdir("notes")
    before = (tmp_path / "a.wav").read_bytes()
    argv = ["a.wav", "b.wav", "--model", model, "--out-dir", "voices", "--overwrite"]
    for report, message in {
        "notes": "notes: is a folder; give another --json",
        ".": "is an output folder of voices",
        "a.wav": "a.wav: is one of the recordings; give another --json",
        "voices/b_spk1.wav": "is the output file of a voice",
        "voices": "is an output folder of voices",
    }.items():
        assert infer(*argv, "--json", report) == 2
        assert message in capsys.readouterr().err
        assert tree(tmp_path) == ["a.wav", "b.wav"]
        assert (tmp_path / "notes").is_dir()
        assert (tmp_path / "a.wav").read_bytes() == before
    (tmp_path / "kept.json").write_text("old")
    assert infer(*argv[:-1], "--json", "kept.json") == 2
    assert "kept.json: already exists; give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "kept.json").read_text() == "old"
    assert infer(*argv, "--json", "kept.json") == 0


def test_invalid_output_folder_is_reported(tmp_path, model, capsys):
    write_tones(tmp_path, "a.wav")
    (tmp_path / "file").write_text("precious")
    for out in ("file", "file/below"):
        assert infer(tmp_path / "a.wav", "--model", model, "--out-dir", tmp_path / out) == 2
        assert "give another --out-dir" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "precious"


def test_full_disk_is_reported_and_leaves_nothing(tmp_path, model, capsys):
    write_tones(tmp_path, "a.wav", n=8000)
    for size in (1000, 20_000):  # while spooling
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            assert infer(tmp_path / "a.wav", "--model", model, "--out-dir", tmp_path / "out") == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "make room" in capsys.readouterr().err
        assert not list((tmp_path / "out").iterdir())
