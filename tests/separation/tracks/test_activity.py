from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesep.separation.tracks import activity
from spikesep.separation.tracks.activity import REACH, ActivityDetector, constant_runs


def reference(power):
    """Decide frame by frame in plain loops."""
    n_outputs, n_frames = power.shape
    state, energy, count, decided = [False] * n_outputs, 0.0, 0, []
    for i in range(n_frames):
        levels = []
        for k in range(n_outputs):
            around = [
                power[k, j] if 0 <= j < n_frames else 0.0 for j in range(i - REACH, i + REACH + 1)
            ]
            levels.append(sum(around) / (2 * REACH + 1))
        loudest = max(levels)
        silent = loudest <= 0 or loudest * count < energy * 10 ** (-activity.FLOOR_DB / 10)
        for k in range(n_outputs):
            margin = activity.OFF_DB if state[k] else activity.ON_DB
            state[k] = not silent and levels[k] >= loudest * 10 ** (-margin / 10)
        if not silent:
            energy, count = energy + loudest, count + 1
        decided.append(list(state))
    return np.array(decided).T


def powers(seed, n_outputs, n_frames):
    rng = np.random.default_rng(seed)
    steps = np.repeat(rng.uniform(-60, 0, (n_outputs, n_frames // 20 + 1)), 20, axis=1)
    return 10 ** (steps[:, :n_frames] / 10)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 999),
    st.integers(1, 3),
    st.integers(1, 120),
    st.lists(st.integers(1, 40), max_size=4),
)
def test_decisions_equal_a_slow_reference_for_blocks_of_any_size(seed, n_outputs, n_frames, sizes):
    power = powers(seed, n_outputs, n_frames)
    detector = ActivityDetector(n_outputs)
    cuts = [c for c in np.cumsum(sizes) if c < n_frames]
    pieces = [detector.push(piece) for piece in np.split(power, cuts, axis=1)]
    found = np.concatenate([*pieces, detector.flush()], axis=1)
    assert np.array_equal(found, reference(power))


def test_a_leak_is_inactive_and_silence_has_no_active_output():
    power = np.array([[1.0] * 100 + [0.0] * 100, [0.01] * 100 + [0.0] * 100])
    detector = ActivityDetector(2)
    active = np.concatenate([detector.push(power), detector.flush()], axis=1)
    assert active[0, :90].all()
    assert not active[1].any()
    assert not active[:, 100 + REACH :].any()


@given(st.lists(st.integers(0, 1), max_size=20))
def test_runs_cover_all_frames_and_are_constant(values):
    frames = np.array([values]).reshape(1, -1)
    runs = constant_runs(frames)
    assert [i for start, stop in runs for i in range(start, stop)] == list(range(len(values)))
    assert all(len(set(values[start:stop])) == 1 for start, stop in runs)
    assert all(values[a[0]] != values[b[0]] for a, b in pairwise(runs))
