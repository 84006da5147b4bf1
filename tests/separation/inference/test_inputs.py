import errno
import os
from pathlib import Path

import pytest

from spikesep.errors import SpikeSepError
from spikesep.separation.inference.inputs import find_recordings, is_pipe, open_source
from spikesep.separation.inference.outputs import name_targets


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_files_folders_and_patterns_are_expanded(tmp_path, monkeypatch):
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
        str(path): str(relative)
        for path, relative in find_recordings(["in", "e.mp3", "odd[1].wav"]).relative_paths.items()
    }
    assert found == {
        "in/a.wav": "a.wav",
        "in/deep/er/b.FLAC": "deep/er/b.FLAC",
        "e.mp3": "e.mp3",
        "odd[1].wav": "odd[1].wav",
    }
    assert [str(path) for path in find_recordings(["in/**/*.[wF]*"]).relative_paths] == [
        "in/a.wav",
        "in/deep/er/b.FLAC",
    ]
    assert [str(path) for path in find_recordings(["i*"]).relative_paths] == [
        "in/a.wav",
        "in/deep/er/b.FLAC",
    ]


def test_duplicates_are_dropped_and_missing_files_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "a.wav")
    (tmp_path / "void").mkdir()
    found = [
        str(path)
        for path in find_recordings(
            ["a.wav", "./a.wav", "*.wav", "b.wav", "*.ogg", "void"]
        ).relative_paths
    ]
    assert found == ["a.wav", "b.wav", "*.ogg", "void"]


def test_invalid_paths_are_kept(tmp_path):
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    odd = [str(tmp_path / "loop.wav"), "x" * 300 + ".wav", str(tmp_path / "loop.wav" / "below.wav")]
    assert [str(path) for path in find_recordings(odd).relative_paths] == odd


def test_other_files_in_a_folder_are_counted(tmp_path):
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
    assert len(found.relative_paths) == 8
    assert "3 files without an audio suffix (.txt 2, no suffix 1)" in found.describe_left_out()
    assert find_recordings([str(tmp_path / "a.WAV")]).describe_left_out() == ""


def test_folder_that_cannot_be_opened_is_not_passed_over(tmp_path, monkeypatch):
    touch(tmp_path / "in" / "a.wav")
    touch(tmp_path / "in" / "closed" / "b.wav")
    scandir = os.scandir

    def refuse_closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_closed)
    folder = tmp_path / "in"
    assert list(find_recordings([str(folder)]).relative_paths) == [
        folder / "a.wav",
        folder / "closed",
    ]
    for argument in (folder, folder / "closed"):
        closed = list(find_recordings([str(argument)]).relative_paths)[-1]
        with (
            pytest.raises(SpikeSepError, match=r"closed: cannot be opened \(Permission denied\)"),
            open_source(closed),
        ):
            pass


OWN = {  # argument, --out-dir, recordings of the second run
    "voices below the folder": ("day", "day/voices", {"day/a.wav", "day/deep/b.wav"}),
    "voices in the folder": ("day", "day", {"day/a.wav", "day/deep/b.wav"}),
    "voices beside the folder": (".", ".", {"day/a.wav", "day/deep/b.wav"}),
    "a pattern": ("day/*.wav", "day", {"day/a.wav"}),
    "a deep pattern": ("day/**/*.wav", "day/voices", {"day/a.wav", "day/deep/b.wav"}),
}


@pytest.mark.parametrize(("argument", "out", "expected"), OWN.values(), ids=OWN)
def test_output_of_an_earlier_run_is_left_out(tmp_path, monkeypatch, argument, out, expected):
    monkeypatch.chdir(tmp_path)
    for name in ("day/a.wav", "day/deep/b.wav"):
        touch(tmp_path / name)
    for run in (1, 2):
        found = find_recordings([argument], Path(out))
        if argument != "day/**/*.wav" or run == 1:
            assert set(map(str, found.relative_paths)) == expected
        for target in name_targets(found.relative_paths, Path(out)):
            for voice in target.voice_files([""], 2):
                touch(tmp_path / voice)
    assert "written by an earlier run" in found.describe_left_out()


def test_own_output_is_recognized_by_name_and_location(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "day/voices/gone/a_spk1.wav")
    touch(tmp_path / "day/b_spk2.wav")
    assert list(find_recordings(["day"], Path("day/voices")).relative_paths) == [
        Path("day/b_spk2.wav")
    ]
    assert list(find_recordings(["day"]).relative_paths) == [
        Path("day/b_spk2.wav"),
        Path("day/voices/gone/a_spk1.wav"),
    ]
    assert list(
        find_recordings(["day/voices/gone/a_spk1.wav"], Path("day/voices")).relative_paths
    )  # named explicitly


def test_pipes_are_recognized(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    touch(tmp_path / "file")
    assert [is_pipe(tmp_path / name) for name in ("pipe", "file", "nothing")] == [
        True,
        False,
        False,
    ]
