"""Sounds and turns of conversations on the listening page."""

import io

import numpy as np
import pytest
import soundfile
from helpers.separators import tiny_separator
from hypothesis import given
from hypothesis import strategies as st

from spikesep.separation.pages import sounds
from spikesep.separation.pages.lanes import cut_turns, make_lanes
from spikesep.separation.scoring.voices import SeparatedVoices
from spikesep.separation.tracks.rttm import Turn, turns_of_activity

RATE = 8000
TURNS = st.lists(
    st.builds(
        lambda start, frames, speaker: Turn(start / 50, (start + frames) / 50, speaker),
        st.integers(0, 500),
        st.integers(1, 200),
        st.integers(1, 3),
    )
)


def noise(*shape) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)


@given(TURNS, st.integers(0, 300), st.integers(1, 300))
def test_an_excerpt_has_the_frames_of_the_turns_in_it(turns, start, n):
    stop = start + n
    expected = np.zeros((3, 800), bool)
    for turn in turns:
        expected[turn.speaker - 1, round(50 * turn.start) : round(50 * turn.stop)] = True
    painted = np.zeros((3, n), bool)
    for turn in cut_turns(turns, start / 50, stop / 50):
        assert 0 <= turn.start < turn.stop <= n / 50 + 1e-9
        painted[turn.speaker - 1, round(50 * turn.start) : round(50 * turn.stop)] = True
    np.testing.assert_array_equal(painted, expected[:, start:stop])


def test_lanes_have_the_turns_of_their_voice_and_say_how_many():
    lanes = make_lanes([Turn(1, 3, 2), Turn(4, 5, 2)], [Turn(0, 2.5, 1)], 3, 2.0, 10.0)
    assert lanes[0].found == (Turn(0, 0.5, 1),)
    assert lanes[1].reference == (Turn(0, 1, 2), Turn(2, 3, 2))
    assert [lane.summary for lane in lanes] == [
        "reference silent; found 1 turn, 0.5 s",
        "reference 2 turns, 2.0 s; found silent",
        "reference silent; found silent",
    ]


@pytest.mark.parametrize("rate", [8000, 16000])
def test_mp3_keeps_length_and_time(rate):
    """A shift of a single sample would be an error of at least 5 dB in this band."""
    time = np.arange(3 * rate) / rate
    samples = 0.2 * np.sin(2 * np.pi * (200 + 300 * time) * time) * np.sin(5 * time) ** 2
    found, found_rate = soundfile.read(io.BytesIO(sounds.mp3(samples, rate)))
    assert (len(found), found_rate) == (len(samples), rate)

    def error(shift):
        return float(np.mean((np.roll(found, shift) - samples)[500:-500] ** 2))

    assert min(range(-5, 6), key=error) == 0
    assert error(0) < 0.01 * np.mean(samples**2)


def test_conversations_are_as_long_as_the_size_of_their_files_allows(monkeypatch):
    monkeypatch.setattr(sounds, "CONVERSATION", (12.0, 8.0, 6.0))
    waves = {"source": noise(2, 16 * RATE), "snn": noise(2, 16 * RATE)}
    mixed = waves["source"].sum(0)
    sizes = (1e9, 2e5, 1.3e5, 0.0)
    parts = [sounds._small_part(mixed, waves, RATE, size) for size in sizes]
    assert [(part.stop - part.start) / RATE for part in parts] == [16, 12, 8, 6]
    for size, part in zip(sizes[:-1], parts, strict=False):
        shown = [mixed[part], *(voice for wave in waves.values() for voice in wave[:, part])]
        encode = sounds._encoder(shown, RATE, lossy=True)
        assert sum(len(encode(sound)) for sound in shown) <= size


def test_spikes_of_long_sounds_are_counted_piece_by_piece(monkeypatch):
    model = tiny_separator("fixed")
    mixed = noise(5 * RATE)
    _, whole_cost, whole = sounds.separate_with_counts(model, mixed[: 2 * RATE])
    monkeypatch.setattr(sounds, "LONGEST", 2.0)
    cost, counts = sounds._count_in_pieces(model, mixed[: 2 * RATE])
    assert cost == whole_cost
    first, *_, last = counts
    np.testing.assert_array_equal(counts[first], whole[first])
    longer, counts = sounds._count_in_pieces(model, mixed)
    assert longer.synops > 2 * cost.synops
    assert counts[last].shape[1] > 2 * whole[last].shape[1]
    np.testing.assert_array_equal(counts[first][:, : whole[first].shape[1]], whole[first])


def test_turns_are_numbered_as_the_sources():
    sources = noise(2, 4 * RATE)
    sources[0, 2 * RATE :], sources[1, : 2 * RATE] = 0, 0
    tracks = sources[::-1]
    found = (Turn(0, 2, 2), Turn(2, 4, 1))
    voices = SeparatedVoices(tracks, np.full(2, 2.0), found)
    assert sounds.find_turns(voices, sources, sources.sum(0), RATE) == [
        Turn(0, 2, 1),
        Turn(2, 4, 2),
    ]
    without = SeparatedVoices(tracks, np.full(2, 2.0))
    turns = sounds.find_turns(without, sources, sources.sum(0), RATE)
    assert [turn.speaker for turn in turns] == [1, 2]
    assert turns[0].stop == pytest.approx(2, abs=0.3)  # the levels are averaged over 0.4 s
    active = np.zeros((2, 200), bool)
    active[0, :100] = active[1, 100:] = True
    assert turns_of_activity(active) == [Turn(0, 2, 1), Turn(2, 4, 2)]
