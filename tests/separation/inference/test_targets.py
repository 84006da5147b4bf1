import os
from pathlib import Path

import pytest

from spikesep.errors import SpikeSepError
from spikesep.separation.inference.targets import (
    Target,
    check_files,
    check_name,
    find_recordings,
    is_complete,
    is_pipe,
    name_targets,
)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_folders_patterns_and_files_become_recordings_with_their_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "in/a.wav",
        "in/deep/er/b.FLAC",
        "in/notes.txt",
        "in/.hidden/c.wav",
        "in/.d.wav",
        "e.mp3",
        "odd[1].wav",
    ):
        touch(tmp_path / name)
    found = {
        str(path): str(place)
        for path, place in find_recordings(["in", "e.mp3", "odd[1].wav"]).places.items()
    }
    assert found == {
        "in/a.wav": "a.wav",
        "in/deep/er/b.FLAC": "deep/er/b.FLAC",
        "e.mp3": "e.mp3",
        "odd[1].wav": "odd[1].wav",
    }
    assert [str(path) for path in find_recordings(["in/**/*.[wF]*"]).places] == [
        "in/a.wav",
        "in/deep/er/b.FLAC",
    ]
    assert [str(path) for path in find_recordings(["i*"]).places] == [
        "in/a.wav",
        "in/deep/er/b.FLAC",
    ]


def test_nothing_is_listed_twice_and_what_is_not_there_is_kept_to_be_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "a.wav")
    (tmp_path / "void").mkdir()
    found = [
        str(path)
        for path in find_recordings(["a.wav", "./a.wav", "*.wav", "b.wav", "*.ogg", "void"]).places
    ]
    assert found == ["a.wav", "b.wav", "*.ogg", "void"]


def test_odd_paths_are_kept_to_be_told(tmp_path):
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    odd = [str(tmp_path / "loop.wav"), "x" * 300 + ".wav", str(tmp_path / "loop.wav" / "below.wav")]
    assert [str(path) for path in find_recordings(odd).places] == odd


def test_what_a_folder_holds_besides_audio_is_counted(tmp_path):
    for name in (
        "a.WAV",
        "b.amr",
        "c.3gp",
        "d.mov",
        "e.m4b",
        "f.wma",
        "g.mp2",
        "h.tta",
        "n.txt",
        "m.txt",
        "x.d/Makefile",
    ):
        touch(tmp_path / name)
    touch(tmp_path / ".hidden.txt")
    found = find_recordings([str(tmp_path)])
    assert len(found.places) == 8
    assert "3 files without an audio suffix passed over (.txt 2, no suffix 1)" in found.left_out()
    assert find_recordings([str(tmp_path / "a.WAV")]).left_out() == ""


OWN = {  # argument, --out-dir, recordings of the second night
    "voices below the folder": ("day", "day/voices", {"day/a.wav", "day/deep/b.wav"}),
    "voices in the folder": ("day", "day", {"day/a.wav", "day/deep/b.wav"}),
    "voices beside the folder": (".", ".", {"day/a.wav", "day/deep/b.wav"}),
    "a pattern": ("day/*.wav", "day", {"day/a.wav"}),
    "a deep pattern": ("day/**/*.wav", "day/voices", {"day/a.wav", "day/deep/b.wav"}),
}


@pytest.mark.parametrize(("argument", "out", "expected"), OWN.values(), ids=OWN)
def test_voices_of_an_earlier_call_are_no_recordings(
    tmp_path, monkeypatch, argument, out, expected
):
    monkeypatch.chdir(tmp_path)
    for name in ("day/a.wav", "day/deep/b.wav"):
        touch(tmp_path / name)
    for night in (1, 2):
        found = find_recordings([argument], Path(out))
        if argument != "day/**/*.wav" or night == 1:
            assert set(map(str, found.places)) == expected
        for target in name_targets(found.places, Path(out)):
            for voice in target.voices([""], 2):
                touch(tmp_path / voice)
    assert "output of an earlier run" in found.left_out()


def test_voices_are_known_when_their_recording_is_gone_and_a_recording_is_not_taken_for_one(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "day/voices/gone/a_spk1.wav")
    touch(tmp_path / "day/b_spk2.wav")
    assert list(find_recordings(["day"], Path("day/voices")).places) == [Path("day/b_spk2.wav")]
    assert list(find_recordings(["day"]).places) == [
        Path("day/b_spk2.wav"),
        Path("day/voices/gone/a_spk1.wav"),
    ]
    assert list(
        find_recordings(["day/voices/gone/a_spk1.wav"], Path("day/voices")).places
    )  # it is named


NAMES = {
    "no clash": (["a.wav", "b.mp3"], ["a", "b"]),
    "one stem": (["a.wav", "a.mp3", "b.wav"], ["a.wav", "a.mp3", "b"]),
    "one stem and its answer": (["a.wav", "a.mp3", "a.mp3.wav"], ["a.wav", "a", "a.mp3.wav"]),
    "one name": (["x/a.wav", "y/a.wav", "c.wav"], ["x/a", "y/a", "c"]),
    "stems and names": (
        ["x/a.wav", "x/a.mp3", "y/a.wav", "y/a.mp3"],
        ["x/a.wav", "x/a.mp3", "y/a.wav", "y/a.mp3"],
    ),
}


@pytest.mark.parametrize(("recordings", "names"), NAMES.values(), ids=NAMES)
def test_voices_of_every_recording_have_a_name_of_their_own(recordings, names):
    places = {Path(recording): Path(Path(recording).name) for recording in recordings}
    targets = name_targets(places, Path("out"))
    assert [target.base for target in targets] == [f"out/{name}" for name in names]
    assert len({voice for target in targets for voice in target.voices([""], 2)}) == 2 * len(
        recordings
    )


def test_voices_are_named_after_channel_and_speaker():
    assert [str(path) for path in Target(Path("a.wav"), "out/a").voices(["_ch1", "_ch2"], 2)] == [
        f"out/a_ch{channel}_spk{k}.wav" for channel in (1, 2) for k in (1, 2)
    ]


def test_a_name_that_does_not_fit_is_refused(tmp_path):
    check_name(tmp_path / ("x" * 246 + "_spk1.wav"))
    with pytest.raises(
        SpikeSepError, match="this name has 256 bytes, the limit is 255; rename the recording"
    ):
        check_name(tmp_path / "none" / ("x" * 247 + "_spk1.wav"))


def test_a_report_that_cannot_be_written_is_told_before_the_work(tmp_path):
    touch(tmp_path / "file")
    check_files([], [], tmp_path / "new" / "report.json")
    with pytest.raises(SpikeSepError, match=r"file is not a folder; give another --json"):
        check_files([], [], tmp_path / "file" / "report.json")


def test_voices_are_complete_when_all_are_there_whole_and_no_older(tmp_path):
    recording, *voices = (tmp_path / name for name in ("a.wav", "1.wav", "2.wav"))
    touch(recording)
    voices[0].write_bytes(bytes(46))
    assert not is_complete(voices, recording)
    voices[1].write_bytes(bytes(44))  # a header
    assert not is_complete(voices, recording)
    voices[1].write_bytes(bytes(46))
    assert is_complete(voices, recording)
    os.utime(recording, (2**32, 2**32))
    assert not is_complete(voices, recording)


def test_a_pipe_is_known(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    touch(tmp_path / "file")
    assert [is_pipe(tmp_path / name) for name in ("pipe", "file", "nothing")] == [
        True,
        False,
        False,
    ]
