from itertools import product

import numpy as np
import pytest
from helpers.tracks import conversation

from spikesep.separation.tracks import trellis
from spikesep.separation.tracks.assignment import OnlineAssignment, assign
from spikesep.separation.tracks.trellis import Trellis


def total(stretches, maps, speakers):
    """Score a sequence of maps in plain loops, as the trellis defines it."""
    spread = max(1 - float(speakers[0] @ speakers[1]), trellis.LEAST_SPREAD)
    seconds = [stretch.seconds for stretch in stretches]
    alone = sum(s.max() for s in seconds if (s > 0).sum() == 1)
    takes_turns = alone > sum(s.max() for s in seconds if (s > 0).sum() > 1)
    caution = 1 + trellis.CAUTION_SECONDS / max(np.sum(seconds), 1.0)
    caution *= 1 if takes_turns else trellis.OVERLAP_CAUTION
    score = 0.0
    for t, (stretch, map_) in enumerate(zip(stretches, maps, strict=True)):
        for k, embedding in enumerate(stretch.embeddings):
            cosines = speakers @ embedding
            best = cosines.max()
            score += stretch.seconds[k] * (best + (cosines[map_[k]] - best) / spread)
        if map_[0] == map_[1]:
            both = stretch.seconds.all() and takes_turns
            score -= trellis.MERGE_COST if both else np.inf
        if t:
            for k in range(2):
                goes_on = stretch.seconds[k] > 0 and stretches[t - 1].seconds[k] > 0
                cost = trellis.SWAP_COST if goes_on else trellis.RETURN_COST
                score -= caution * cost * (map_[k] != maps[t - 1][k])
    return score


@pytest.mark.parametrize("seed", range(6))
def test_the_best_maps_equal_those_of_an_exhaustive_search(seed):
    rng = np.random.default_rng(seed)
    maps, active = rng.integers(0, 2, (4, 2)), rng.random((4, 2)) < 0.7
    stretches = conversation(maps, active, noise=0.6, seed=seed)
    speakers = rng.normal(size=(2, 8))
    speakers /= np.linalg.norm(speakers, axis=1, keepdims=True)
    found = Trellis(stretches, 2).best_maps(speakers)
    every = product(product(range(2), repeat=2), repeat=4)
    best = max(total(stretches, maps, speakers) for maps in every)
    assert total(stretches, found, speakers) == pytest.approx(best)


def swapping(n_outputs, n_stretches=60, seed=0):
    """Outputs that change their speakers after pauses, each active most of the time."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n_outputs) for _ in range(n_stretches)]
    active = rng.random((n_stretches, n_outputs)) < 0.7
    active[::2] = False
    active[np.arange(0, n_stretches, 2), rng.integers(0, n_outputs, -(-n_stretches // 2))] = True
    return np.array(orders), active


def errors(found, maps, active):
    """Share of active outputs whose speaker is wrong, for the best naming of the speakers."""
    n = maps.shape[1]
    names = [dict(enumerate(p)) for p in product(range(n), repeat=n) if len(set(p)) == n]
    wrong = [np.vectorize(name.get)(found) != maps for name in names]
    return min((w & active).sum() / active.sum() for w in wrong)


@pytest.mark.parametrize("n_outputs", [2, 3])
def test_outputs_that_change_their_speakers_are_put_in_order(n_outputs):
    maps, active = swapping(n_outputs)
    found = assign(conversation(maps, active), n_outputs)
    assert errors(found, maps, active) == 0


def test_two_outputs_with_one_voice_go_to_one_track():
    maps, active = np.array([[0, 1]] * 40 + [[0, 0]] * 3), np.ones((43, 2), bool)
    active[:20, 1] = active[20:40, 0] = False
    assert np.array_equal(assign(conversation(maps, active), 2), maps)


def test_the_speaker_who_is_heard_first_is_the_first():
    maps, active = swapping(2, seed=3)
    found = assign(conversation(maps, active), 2)
    first = np.flatnonzero(active[0])[0]
    assert found[0, first] == 0


def test_a_recording_without_speech_needs_no_order():
    assert assign([], 2).shape == (0, 2)
    silent = conversation(np.array([[0, 1]] * 3), np.zeros((3, 2), bool))
    assert assign(silent, 2).shape == (3, 2)


def test_one_speaker_alone_stays_on_one_track():
    maps, active = np.array([[0, 1]] * 20), np.array([[True, False]] * 20)
    assert (assign(conversation(maps, active), 2)[:, 0] == 0).all()


@pytest.mark.parametrize("n_outputs", [2, 3])
def test_a_stream_follows_the_speakers_once_it_has_heard_them(n_outputs):
    maps, active = swapping(n_outputs, 200)
    online = OnlineAssignment(n_outputs)
    found = np.array([online.assign(stretch) for stretch in conversation(maps, active)])
    assert errors(found[20:], maps[20:], active[20:]) <= 0.02
