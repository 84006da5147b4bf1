import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spikesep.separation.tracks.arrangement import RAMP_SECONDS, Arranger

RATE = 8000
MAPS = [np.array([0, 1]), np.array([1, 0]), np.array([1, 1]), np.array([1, 1]), np.array([0, 1])]


def arranged(outputs, sizes=()):
    arranger = Arranger(2, RATE)
    arranger.plan([0, 10, 20, 21, 22], MAPS)
    cuts = [c for c in np.cumsum(sizes) if c < outputs.shape[1]]
    parts = np.split(outputs, cuts, axis=1)
    return np.concatenate([arranger.arrange(part) for part in parts], axis=1)


def test_each_output_is_added_to_its_track():
    outputs = np.random.default_rng(0).normal(size=(2, 5000))
    tracks, ramp = arranged(outputs), round(RAMP_SECONDS * RATE)
    for start, stop, map_ in ((0, 1600, MAPS[0]), (1600, 3200, MAPS[1]), (3200, 3520, MAPS[2])):
        expected = np.zeros_like(outputs)
        for k in range(2):
            expected[map_[k]] += outputs[k]
        inside = slice(start + (ramp if start else 0), stop)
        np.testing.assert_array_equal(tracks[:, inside], expected[:, inside])
    np.testing.assert_allclose(tracks.sum(0), outputs.sum(0))


def test_tracks_have_no_steps():
    tracks = arranged(np.stack([np.full(5000, 1.0), np.full(5000, 0.5)]))
    assert np.abs(np.diff(tracks, axis=1)).max() <= 1.0 / (RAMP_SECONDS * RATE) + 1e-9


@settings(deadline=None)
@given(st.lists(st.integers(1, 2000), max_size=6))
def test_blocks_of_any_size_give_the_same_tracks(sizes):
    outputs = np.random.default_rng(0).normal(size=(2, 5000))
    assert np.array_equal(arranged(outputs, sizes), arranged(outputs))
