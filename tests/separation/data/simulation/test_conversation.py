import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesep.separation.data.simulation.conversation import (
    Turn,
    draw_conversation,
    draw_excerpt,
    fade_edges,
    measure_overlap,
)
from spikesep.separation.mixing_config import ConversationConfig

CONFIG = ConversationConfig()


def share_of_frames(turns, seconds):
    """Return speech and overlap in seconds by counting frames of 10 ms."""
    active = np.zeros(round(seconds * 100), int)
    for turn in turns:
        active[round(turn.start * 100) : round(turn.end * 100)] += 1
    return (active > 0).sum() / 100, (active > 1).sum() / 100


def test_overlap_and_silence_are_those_of_telephone_conversations():
    """CALLHOME's two-speaker conversations overlap in 13 to 14 % of the speech."""
    rng = np.random.default_rng(0)
    counts = np.array(
        [measure_overlap(draw_conversation(rng, 2, 300, CONFIG)) for _ in range(20)]
    ).sum(0)
    assert counts[1] / counts[0] == pytest.approx(0.135, abs=0.02)
    assert counts[0] / 6000 == pytest.approx(0.86, abs=0.04)


def test_statistics_follow_the_settings():
    def share(**changes):
        rng = np.random.default_rng(0)
        speech, overlap = measure_overlap(
            draw_conversation(rng, 2, 2000, ConversationConfig(**changes))
        )
        return speech / 2000, overlap / speech

    assert share(overlap=0.0, backchannels=0.0)[1] == 0
    assert share(overlap=0.9)[1] > share()[1] + 0.05
    assert share(pause_seconds=2.0, gap_seconds=2.0)[0] < share()[0] - 0.15
    turns = draw_conversation(
        np.random.default_rng(1), 2, 5000, ConversationConfig(change=1.0, backchannels=0.0)
    )
    assert all(one.speaker != other.speaker for one, other in itertools.pairwise(turns))
    lengths = [turn.end - turn.start for turn in turns]
    assert np.median(lengths) == pytest.approx(1.8, rel=0.1)
    overlapping = [b.start < a.end for a, b in itertools.pairwise(turns)]
    assert np.mean(overlapping) == pytest.approx(0.4, abs=0.05)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 4), st.floats(0.5, 40))
def test_no_speaker_talks_over_themselves_and_all_is_within_the_duration(seed, n, seconds):
    turns = draw_conversation(np.random.default_rng(seed), n, seconds, CONFIG)
    assert turns == draw_conversation(np.random.default_rng(seed), n, seconds, CONFIG)
    assert all(0 <= turn.start < turn.end <= seconds for turn in turns)
    assert turns == sorted(turns, key=lambda turn: turn.start)
    for speaker in range(n):
        own = [turn for turn in turns if turn.speaker == speaker]
        assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(own))
    speech, overlap = measure_overlap(turns)
    expected = share_of_frames(turns, seconds)
    assert speech == pytest.approx(expected[0], abs=0.02 * len(turns) + 0.02)
    assert overlap == pytest.approx(expected[1], abs=0.02 * len(turns) + 0.02)


def test_excerpts_hold_two_voices_one_or_none():
    found = set()
    for seed in range(60):
        turns = draw_excerpt(np.random.default_rng(seed), 2, 1.0, CONFIG)
        found.add(len({turn.speaker for turn in turns}))
    assert found == {0, 1, 2}


def test_overlap_of_known_turns():
    turns = [Turn(0, 0, 3), Turn(1, 2, 5), Turn(2, 2.5, 2.75), Turn(0, 6, 7)]
    assert measure_overlap(turns) == pytest.approx((6, 1))
    assert measure_overlap([]) == (0, 0)


def test_fades_start_at_zero_and_keep_the_middle():
    faded = fade_edges(np.ones(800), 8000)
    assert faded[0] < 0.001
    assert faded[-1] < 0.001
    assert (faded[80:720] == 1).all()
    assert fade_edges(np.ones(1), 8000) == [1]
