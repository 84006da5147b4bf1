from pathlib import Path

import numpy as np
import pytest

from spikesep.separation.data.corpora.table import Utterance
from spikesep.separation.data.speaker_balance import speaker_probabilities


def voices(*groups):
    """Return utterances by speaker; a group is (corpus, sex, speakers, seconds of each)."""
    found = {}
    for corpus, sex, n, seconds in groups:
        for _ in range(n):
            name = f"s{len(found):04d}"
            row = Utterance(f"{name}-0", Path("x.wav"), name, sex, "tr", seconds, corpus)
            found[name] = [row]
    return found


def sums(found, probabilities, key):
    if probabilities is None:
        probabilities = np.full(len(found), 1 / len(found))
    totals = {}
    for rows, probability in zip(found.values(), probabilities, strict=True):
        name = getattr(rows[0], key)
        totals[name] = totals.get(name, 0) + probability
    return totals


LARGE_AND_SMALL = voices(
    (0, "f", 10, 9.0), (0, "m", 30, 9.0), (1, "f", 300, 3.0), (1, "m", 660, 3.0)
)


@pytest.mark.parametrize(("exponent", "share"), [(0.0, 0.5), (0.5, 0.17), (1.0, 0.04)])
def test_small_corpora_do_not_vanish_and_sexes_stay_balanced(exponent, share):
    probabilities = speaker_probabilities(LARGE_AND_SMALL, 0.0, exponent)
    assert probabilities.sum() == pytest.approx(1)
    assert sums(LARGE_AND_SMALL, probabilities, "corpus")[0] == pytest.approx(share, abs=0.005)
    by_sex = sums(LARGE_AND_SMALL, probabilities, "sex")
    assert by_sex["f"] == pytest.approx(by_sex["m"])


def test_speakers_of_one_corpus_and_sex_are_equally_probable():
    probabilities = speaker_probabilities(LARGE_AND_SMALL, 0.0, 0.0)
    for group in (slice(0, 10), slice(10, 40), slice(40, 340), slice(340, None)):
        assert np.ptp(probabilities[group]) < 1e-12


def test_speakers_of_unknown_sex_keep_their_share():
    found = voices((0, "f", 5, 1.0), (0, "m", 15, 1.0), (0, "u", 20, 1.0), (1, "u", 160, 1.0))
    probabilities = speaker_probabilities(found, 0.0, 0.0)
    assert sums(found, probabilities, "corpus")[1] == pytest.approx(0.5, abs=0.01)
    by_sex = sums(found, probabilities, "sex")
    assert by_sex["f"] == pytest.approx(by_sex["m"])


def test_one_corpus_is_not_affected():
    found = voices((0, "f", 3, 2.0), (0, "m", 5, 1.0))
    np.testing.assert_array_equal(
        speaker_probabilities(found, 0.5, 0.0), speaker_probabilities(found, 0.5)
    )
    assert speaker_probabilities(voices((0, "f", 4, 1.0)), 0.0, 0.0) is None
