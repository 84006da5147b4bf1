from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spikesep.separation.tracks.rttm import (
    Turn,
    find_turns,
    format_reports,
    format_rttm,
    turns_of_activity,
)
from spikesep.separation.tracks.stretches import Stretch


def stretch(start, stop, *active):
    return Stretch(start, stop, np.array(active) * (stop - start) / 50, np.zeros((2, 1)))


def test_turns_join_neighboring_stretches_of_a_speaker():
    stretches = [
        stretch(0, 10, 1, 0),
        stretch(10, 60, 1, 1),
        stretch(60, 80, 0, 1),
        stretch(80, 90, 0, 0),
        stretch(90, 100, 1, 0),
    ]
    maps = np.array([[0, 1], [0, 1], [1, 0], [1, 0], [1, 0]])
    assert find_turns(stretches, maps) == [
        Turn(0.0, 1.6, 1),
        Turn(0.2, 1.2, 2),
        Turn(1.8, 2.0, 2),
    ]


@given(arrays(bool, st.tuples(st.integers(1, 4), st.integers(0, 40))))
def test_turns_of_activity_cover_its_frames_without_touching(active):
    turns = turns_of_activity(active)
    painted = np.zeros_like(active)
    for turn in turns:
        part = slice(round(50 * turn.start), round(50 * turn.stop))
        assert not painted[turn.speaker - 1, max(0, part.start - 1) : part.stop + 1].any()
        painted[turn.speaker - 1, part] = True
    np.testing.assert_array_equal(painted, active)
    assert turns == sorted(turns, key=lambda turn: (turn.start, turn.speaker))


def test_a_line_has_the_ten_fields_of_the_format():
    lines = format_rttm("my talk", [Turn(0.5, 2.25, 2)], channel=3)
    assert lines == "SPEAKER my_talk 3 0.50 1.75 <NA> <NA> spk2 <NA> <NA>\n"


def test_reports_of_a_batch_are_named_like_their_voices():
    turn = {"start": 0.0, "stop": 1.0, "speaker": 1}
    reports = [
        {"recording": "a.wav", "voices": ["o/a_spk1.wav", "o/a_spk2.wav"], "turns": [[turn]]},
        {"recording": "bad.wav", "error": "unreadable"},
        {"recording": "-", "voices": ["-"], "turns": [[turn], [turn]]},
    ]
    names = [line.split()[1:3] for line in format_reports(reports, 1, Path("o")).splitlines()]
    assert names == [["a", "1"], ["stdin", "1"], ["stdin", "2"]]


def test_recordings_of_one_name_have_names_of_their_own():
    """Of a stem with two suffixes or in two folders, also with one voice each."""
    voices = ["b.wav_spk1.wav", "b.mp3_spk1.wav", "x/c_ch2_spk1.wav", "y/c_ch2_spk1.wav"]
    turn = {"start": 0.0, "stop": 1.0, "speaker": 1}
    reports = [{"recording": "in", "voices": [f"o/{v}"], "turns": [[turn]]} for v in voices]
    names = [line.split()[1] for line in format_reports(reports, 1, Path("o")).splitlines()]
    assert names == ["b.wav", "b.mp3", "x/c", "y/c"]
