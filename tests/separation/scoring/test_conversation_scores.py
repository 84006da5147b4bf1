import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikesep.errors import SpikeSepError
from spikesep.separation.data.kaldi import Mixture
from spikesep.separation.scoring.conversation import (
    diarization_error,
    level_below,
    quiet_level,
    read_turns,
    score_turns,
)
from spikesep.separation.scoring.metrics import si_sdr
from spikesep.separation.tracks.rttm import Turn

RATE = 1000
TURNS = [Turn(0.0, 2.0, 1), Turn(2.0, 4.0, 2), Turn(4.0, 6.0, 1), Turn(5.0, 8.0, 2)]


def speech(turns=TURNS, seconds=8.0, n=2):
    rng = np.random.default_rng(0)
    sources = np.zeros((n, round(seconds * RATE)))
    for turn in turns:
        part = slice(round(turn.start * RATE), round(turn.stop * RATE))
        sources[turn.speaker - 1, part] = rng.normal(0, 0.1, part.stop - part.start)
    return sources


def swapped_from(signals, seconds):
    signals, start = signals.copy(), round(seconds * RATE)
    signals[:, start:] = signals[::-1, start:]
    return signals


def test_a_swap_is_counted_once_per_speaker_and_costs_nothing_by_turn():
    sources = speech()
    estimates = sources + 0.001 * np.random.default_rng(1).normal(size=sources.shape)
    kept = score_turns(estimates, sources, sources.sum(0), TURNS, RATE)
    swapped = score_turns(swapped_from(estimates, 4.0), sources, sources.sum(0), TURNS, RATE)
    assert kept["swaps"] == 0
    assert swapped["swaps"] == pytest.approx(2 / (8 / 60))
    assert swapped["si_sdr_turns"] == pytest.approx(kept["si_sdr_turns"], abs=0.01)


def test_a_silent_voice_counts_as_the_mixture():
    sources = speech()
    mixture = sources.sum(0)
    noise = np.random.default_rng(1).normal(0, 0.01, mixture.shape) * (sources[0] != 0)
    estimates = np.stack([sources[0] + noise, np.zeros_like(mixture)])
    found = score_turns(estimates, sources, mixture, TURNS, RATE)
    each = [si_sdr(estimates[0], sources[0]), si_sdr(mixture, sources[1])]
    assert found["si_sdr_turns"] == pytest.approx(np.mean(each))


def test_a_silent_source_leaves_the_score_by_turn_undefined():
    sources = speech() * [[1], [0]]
    found = score_turns(sources, sources, sources.sum(0), TURNS, RATE)
    assert np.isnan(found["si_sdr_turns"])
    assert found["swaps"] == 0


@given(st.permutations(range(3)))
def test_the_order_of_the_outputs_is_no_swap(order):
    turns = [*TURNS, Turn(1.0, 2.5, 3)]
    sources = speech(turns, n=3)
    found = score_turns(sources[list(order)] + 1e-4, sources, sources.sum(0), turns, RATE)
    assert found["swaps"] == 0


def test_silent_speakers_are_measured_where_others_talk():
    sources = speech()
    assert quiet_level(sources + 0.1 * sources[::-1], sources, TURNS, RATE) == pytest.approx(20)
    assert quiet_level(sources, sources, TURNS, RATE) == 100
    alone = [Turn(0.0, 8.0, 1)]
    assert quiet_level(speech(alone), speech(alone), alone, RATE) is None


@given(st.floats(-40, 40))
def test_level_below_is_in_decibels(level):
    signal = np.random.default_rng(0).normal(size=500)
    assert level_below(signal * 10 ** (-level / 20), signal) == pytest.approx(level, abs=1e-6)


def test_level_of_silence_is_bounded():
    assert level_below(np.zeros(10), np.ones(10)) == 100
    assert level_below(np.ones(10), np.zeros(10)) == 0


def error_by_frames(reference, hypothesis, seconds):
    """Compute errors and speech in seconds, frame by frame, for turns of two speakers."""
    step = 0.001
    grid = np.arange(round(seconds / step)) * step + step / 2

    def talks(turns, speaker):
        return sum((t.start <= grid) & (grid < t.stop) for t in turns if t.speaker == speaker) > 0

    counts = np.ones(len(grid), bool)
    for turn in reference:
        for boundary in (turn.start, turn.stop):
            counts &= abs(grid - boundary) > 0.25
    true = np.stack([talks(reference, k) for k in (1, 2)])[:, counts]
    errors = []
    for order in ((1, 2), (2, 1)):
        found = np.stack([talks(hypothesis, k) for k in order])[:, counts]
        right = (true & found).sum(0)
        errors.append((np.maximum(true.sum(0), found.sum(0)) - right).sum() * step)
    return min(errors), true.sum() * step


def test_diarization_error_agrees_with_a_count_of_frames():
    pytest.importorskip("pyannote.metrics")
    hypothesis = [Turn(0.5, 3.0, 2), Turn(3.0, 4.5, 1), Turn(4.5, 5.5, 2), Turn(5.2, 7.0, 1)]
    found = diarization_error(TURNS, hypothesis, 8.0)
    assert found == pytest.approx(error_by_frames(TURNS, hypothesis, 8.0), abs=0.01)
    assert diarization_error(TURNS, TURNS, 8.0)[0] == pytest.approx(0, abs=1e-6)


MIXTURE = Mixture("a_b-0", *[None] * 2, ("a", "b"), ("f", "m"))


def test_turns_are_those_of_the_sources(tmp_path):
    lines = ["SPKR-INFO a_b-0 1", "SPEAKER a_b-0 1 2.5 1 <NA> <NA> b <NA> <NA>",
             "SPEAKER a_b-0 1 0 2 <NA> <NA> a <NA> <NA>"]  # fmt: skip
    again = "SPEAKER a_b-0 1 4 1 <NA> <NA> a <NA> <NA>\n"
    assert read_turns(tmp_path, [MIXTURE]) == {}
    (tmp_path / "rttm").write_text("\n".join(lines) + "\n")
    assert read_turns(tmp_path, [MIXTURE]) == {}  # nobody talks twice
    (tmp_path / "rttm").write_text("\n".join(lines) + "\n" + again)
    expected = (Turn(0, 2, 1), Turn(2.5, 3.5, 2), Turn(4, 5, 1))
    assert read_turns(tmp_path, [MIXTURE]) == {"a_b-0": expected}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("SPEAKER a_b-0 1 x 1 <NA> <NA> b", "rttm:1: not SPEAKER, name"),
        ("SPEAKER a_b-0 1 0", "rttm:1: not SPEAKER, name"),
        ("SPEAKER a_b-0 1 nan 1 <NA> <NA> b", "rttm:1: not SPEAKER, name"),
        ("SPEAKER a_b-0 1 0 -1 <NA> <NA> b", "rttm:1: not SPEAKER, name"),
        ("SPEAKER a_b-0 1 0 1 <NA> <NA> \xe9", "rttm: cannot be read"),
        ("SPEAKER a_b-0 1 0 1 <NA> <NA> c", "c is no speaker of a_b-0"),
        ("SPEAKER other 1 0 1 <NA> <NA> a", "no turn of a_b-0"),
    ],
)
def test_damaged_turns_are_an_error_of_one_line(tmp_path, line, reason):
    (tmp_path / "rttm").write_text(line + "\n", encoding="latin-1")
    with pytest.raises(SpikeSepError, match=reason):
        read_turns(tmp_path, [MIXTURE])
