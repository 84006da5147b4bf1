import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spikesep.errors import SpikeSepError
from spikesep.separation.inference.outputs import (
    Target,
    check_name_length,
    check_output_files,
    is_complete,
    name_targets,
    open_voice_files,
)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


NAMES = {
    "no clash": (["a.wav", "b.mp3"], ["a", "b"]),
    "one stem": (["a.wav", "a.mp3", "b.wav"], ["a.wav", "a.mp3", "b"]),
    "one stem and its full name": (["a.wav", "a.mp3", "a.mp3.wav"], ["a.wav", "a", "a.mp3.wav"]),
    "one name": (["x/a.wav", "y/a.wav", "c.wav"], ["x/a", "y/a", "c"]),
    "stems and names": (
        ["x/a.wav", "x/a.mp3", "y/a.wav", "y/a.mp3"],
        ["x/a.wav", "x/a.mp3", "y/a.wav", "y/a.mp3"],
    ),
}


@pytest.mark.parametrize(("recordings", "names"), NAMES.values(), ids=NAMES)
def test_output_names_are_unique(recordings, names):
    relative_paths = {Path(recording): Path(Path(recording).name) for recording in recordings}
    targets = name_targets(relative_paths, Path("out"))
    assert [target.base for target in targets] == [f"out/{name}" for name in names]
    assert len({voice for target in targets for voice in target.voice_files([""], 2)}) == 2 * len(
        recordings
    )


def test_output_names_contain_channel_and_speaker():
    assert [
        str(path) for path in Target(Path("a.wav"), "out/a").voice_files(["_ch1", "_ch2"], 2)
    ] == [f"out/a_ch{channel}_spk{k}.wav" for channel in (1, 2) for k in (1, 2)]


def test_too_long_names_are_rejected(tmp_path):
    check_name_length(tmp_path / ("x" * 246 + "_spk1.wav"))
    with pytest.raises(
        SpikeSepError, match="this name has 256 bytes, the limit is 255; rename the recording"
    ):
        check_name_length(tmp_path / "none" / ("x" * 247 + "_spk1.wav"))


def test_unwritable_report_is_rejected_in_advance(tmp_path):
    touch(tmp_path / "file")
    check_output_files([], [], {"--json": tmp_path / "new" / "report.json"})
    with pytest.raises(SpikeSepError, match=r"file is not a folder; give another --rttm"):
        check_output_files([], [], {"--rttm": tmp_path / "file" / "talk.rttm"})


def test_output_is_complete_if_all_files_are_whole_and_no_older(tmp_path):
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


def test_files_of_unknown_length_are_completed(tmp_path):
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    with open_voice_files(paths, 8000) as write:
        for _ in range(3):
            write(np.array([[1, 2], [3, 4]], np.int16))
        assert not any(path.exists() for path in paths)
    np.testing.assert_array_equal(soundfile.read(paths[1], dtype="int16")[0], [2, 4] * 3)
    assert len(list(tmp_path.iterdir())) == 2


def test_failure_while_writing_leaves_no_file(tmp_path):
    with (
        pytest.raises(RuntimeError, match="while writing"),
        open_voice_files([tmp_path / "a.wav", tmp_path / "b.wav"], 8000) as write,
    ):
        write(np.zeros((3, 2), np.int16))
        raise RuntimeError("while writing")
    assert not list(tmp_path.iterdir())
