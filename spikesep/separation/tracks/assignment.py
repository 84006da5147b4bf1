"""Assignment of a separator's outputs to speakers: of a whole recording, or while it goes on.

Speakers are means of embeddings. They and the maps of outputs to speakers are found in turns, as in
k-means; dynamic programming then finds the best sequence of maps.
"""

from collections.abc import Sequence

import numpy as np

from spikesep.separation.tracks.stretches import Stretch
from spikesep.separation.tracks.trellis import Trellis

RESTARTS, TURNS = 10, 10
FINAL_TURNS = 3
SETTLED = 60
"""Stretches from which an assignment in progress continues with the speakers it has."""
HISTORY = 300
"""Stretches that an assignment in progress remembers."""


def assign(stretches: Sequence[Stretch], n_outputs: int) -> np.ndarray:
    """Return the speaker of each output in each stretch, [T, S].

    The speaker who is heard first is number 0.
    """
    if not stretches:
        return np.zeros((0, n_outputs), int)
    trellis = Trellis(stretches, n_outputs)
    speakers = _find_speakers(trellis)
    maps = trellis.best_maps(speakers)
    for _ in range(FINAL_TURNS):
        speakers = trellis.mean_embeddings(maps, speakers)
        maps = trellis.best_maps(speakers)
    return np.argsort(_order_of_appearance(trellis, maps))[maps]


class OnlineAssignment:
    """Assigns the outputs of each new stretch from what has been heard so far.

    Args:
        n_outputs: outputs of the separator, S.
    """

    def __init__(self, n_outputs: int):
        self._n = n_outputs
        self._history: list[Stretch] = []
        self._maps: list[np.ndarray] = []
        self._speakers: np.ndarray | None = None

    def assign(self, stretch: Stretch) -> np.ndarray:
        """Return the speaker of each output in the next stretch, [S].

        The whole history is assigned anew; its speakers get the numbers that agree best with those
        given before.
        """
        if not stretch.seconds.any():
            return self._maps[-1] if self._maps else np.arange(self._n)
        self._history = [*self._history, stretch][-HISTORY:]
        trellis = Trellis(self._history, self._n)
        if self._speakers is None or len(self._history) <= SETTLED:
            speakers = _find_speakers(trellis)
        else:
            _, speakers = trellis.refine(self._speakers, 1)
        self._speakers, maps = speakers, trellis.best_maps(speakers)
        numbers = self._numbers(trellis, maps)
        self._maps = [*self._maps, numbers[maps[-1]]][-HISTORY:]
        return self._maps[-1]

    def _numbers(self, trellis: Trellis, maps: np.ndarray) -> np.ndarray:
        """Return the number of each speaker of the trellis, [S]."""
        if not self._maps:
            return np.argsort(_order_of_appearance(trellis, maps))
        given = np.array(self._maps[-len(maps) + 1 :])
        earlier, seconds = maps[: len(given)], trellis.seconds[: len(given)]
        agreement = np.zeros((self._n, self._n))
        np.add.at(agreement, (earlier, given), seconds)
        from scipy.optimize import linear_sum_assignment

        return linear_sum_assignment(-agreement)[1]


def _find_speakers(trellis: Trellis) -> np.ndarray:
    """Return the speakers [S, E] that agree best with the embeddings, from several beginnings."""
    rng = np.random.default_rng(0)
    found = [trellis.refine(_draw_speakers(trellis, rng), TURNS) for _ in range(RESTARTS)]
    return max(found, key=lambda result: result[0])[1]


def _draw_speakers(trellis: Trellis, rng: np.random.Generator) -> np.ndarray:
    """Draw distant embeddings of active outputs, [S, E] (k-means++)."""
    seconds = trellis.seconds.ravel()
    points = trellis.embeddings.reshape(len(seconds), -1)
    speakers, weights = np.zeros((trellis.n, points.shape[1])), seconds
    for k in range(trellis.n):
        if not weights.sum() > 0:
            break
        speakers[k] = points[rng.choice(len(points), p=weights / weights.sum())]
        distance = 1 - (points @ speakers[: k + 1].T).max(1)
        weights = seconds * distance.clip(min=0) ** 2
    return speakers


def _order_of_appearance(trellis: Trellis, maps: np.ndarray) -> np.ndarray:
    """Return the speakers in the order in which they are heard first."""
    active = trellis.seconds > 0
    heard = [np.flatnonzero(((maps == k) & active).any(1))[:1] for k in range(trellis.n)]
    return np.argsort([h[0] if len(h) else len(maps) for h in heard], kind="stable")
