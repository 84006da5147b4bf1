"""Scores of the maps of stretches, and the best maps by dynamic programming.

In each stretch a map says whose voice every output has. Its score is how well the embeddings of the
outputs agree with the speakers, less a cost of changing the map of an output that goes on talking.
"""

from collections.abc import Sequence
from itertools import combinations, permutations, product

import numpy as np

from spikesep.separation.tracks.stretches import Stretch

SWAP_COST, RETURN_COST, MERGE_COST = 0.2, 0.02, 0.5
"""Costs in seconds of perfect agreement: an output that goes on talking changes its speaker; one
that was silent before does; two active outputs have the voice of one speaker."""
CAUTION_SECONDS = 20.0
"""Speech of which so much must be heard before speakers are known well: costs are twice as high if
so much was heard, and higher before."""
OVERLAP_CAUTION = 4.0
"""Factor of the costs where people mostly talk at once: a separator rarely swaps without pauses."""
NEW_AGREEMENT = 0.3
"""Agreement of an embedding with a speaker who was not heard so far."""
LEAST_SPREAD = 0.1
"""One minus the cosine of the embeddings of two speakers, below which they count as one."""
MOST_MERGING = 4
"""Largest number of outputs for which maps may give several outputs to one speaker."""


class Trellis:
    """Stretches as arrays, and the maps that each may have.

    Args:
        stretches: the stretches in order, T.
        n_outputs: outputs of the separator, S; there are as many speakers.

    Attributes:
        seconds: active time of each output, [T, S].
        embeddings: [T, S, E]; zeros where an output is inactive.
        maps: all maps, [M, S].
    """

    def __init__(self, stretches: Sequence[Stretch], n_outputs: int):
        self.n = n_outputs
        self.seconds = np.stack([stretch.seconds for stretch in stretches])
        self.embeddings = np.stack([stretch.embeddings for stretch in stretches])
        merging = n_outputs <= MOST_MERGING
        speakers = range(n_outputs)
        self.maps = np.array(
            list(product(speakers, repeat=n_outputs) if merging else permutations(speakers))
        )
        active = self.seconds > 0
        pairs = list(combinations(speakers, 2))
        same = [self.maps[:, i] == self.maps[:, j] for i, j in pairs]
        both = [active[:, i] & active[:, j] for i, j in pairs]
        n_same = np.array(same).reshape(len(pairs), -1).sum(0)
        n_merged = np.array(both).reshape(len(pairs), -1).T.astype(float) @ np.array(same).reshape(
            len(pairs), -1
        )
        self._merges = n_same > 0
        n_active, lengths = active.sum(1), self.seconds.max(1)
        # Where people mostly talk at once, two active outputs are two people.
        self._may_merge = lengths[n_active == 1].sum() > lengths[n_active > 1].sum()
        self._prior = np.where(n_same > n_merged, -np.inf, -MERGE_COST * n_merged)  # [T, M]
        goes_on = np.zeros_like(active)
        goes_on[1:] = active[1:] & active[:-1]
        caution = 1.0 + CAUTION_SECONDS / max(self.seconds.sum(), 1.0)
        caution *= 1.0 if self._may_merge else OVERLAP_CAUTION
        self._costs = caution * np.where(goes_on, SWAP_COST, RETURN_COST)
        self._differs = (self.maps[:, None] != self.maps).transpose(2, 0, 1).astype(float)

    def scores(self, speakers: np.ndarray) -> np.ndarray:
        """Return the score of each map in each stretch, [T, M], for speakers [S, E].

        The more alike two speakers are, the more a difference between the agreements counts.
        """
        agreement = self.embeddings @ speakers.T
        agreement[..., ~speakers.any(1)] = NEW_AGREEMENT
        best = agreement.max(-1, keepdims=True)
        agreement = best + (agreement - best) / max(spread(speakers), LEAST_SPREAD)
        agreement *= self.seconds[:, :, None]
        scores = self._prior.copy()
        if not self._may_merge or speakers.any(1).sum() < 2:
            scores[:, self._merges] = -np.inf
        for k in range(self.n):
            scores += agreement[:, k][:, self.maps[:, k]]
        return scores

    def best_maps(self, speakers: np.ndarray) -> np.ndarray:
        """Find the sequence of maps with the highest total, less costs (Viterbi): [T, S]."""
        scores = self.scores(speakers)
        best, origins = scores[0], np.zeros(scores.shape, int)
        for t in range(1, len(scores)):
            reached = best[:, None] - np.tensordot(self._costs[t], self._differs, 1)
            origins[t] = reached.argmax(0)
            best = reached.max(0) + scores[t]
        path = [int(best.argmax())]
        for t in range(len(scores) - 1, 0, -1):
            path.append(int(origins[t, path[-1]]))
        return self.maps[path[::-1]]

    def refine(self, speakers: np.ndarray, turns: int) -> tuple[float, np.ndarray]:
        """Find maps, each by itself, and speakers in turns; return total score and speakers."""
        for _ in range(turns):
            maps = self.maps[self.scores(speakers).argmax(1)]
            before, speakers = speakers, self.mean_embeddings(maps, speakers)
            if np.array_equal(before, speakers):
                break
        if spread(speakers) < LEAST_SPREAD:
            speakers = self._without_twins(speakers)
        return float(self.scores(speakers).max(1).sum()), speakers

    def _without_twins(self, speakers: np.ndarray) -> np.ndarray:
        """Drop each speaker who is too like one before, and learn the others again."""
        kept = speakers.copy()
        for k in range(1, self.n):
            if (kept[:k] @ kept[k]).max() > 1 - LEAST_SPREAD:
                kept[k] = 0.0
        return kept

    def mean_embeddings(self, maps: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return the mean embedding of each speaker, of length 1; `before` if never heard."""
        means = before.copy()
        for speaker in range(self.n):
            weights = np.where(maps == speaker, self.seconds, 0.0)
            total = np.einsum("ts,tse->e", weights, self.embeddings)
            if length := np.linalg.norm(total):
                means[speaker] = total / length
        return means


def spread(speakers: np.ndarray) -> float:
    """Return one minus the largest cosine between two speakers who are known."""
    known = speakers[speakers.any(1)]
    if len(known) < 2:
        return 1.0
    cosines = (known @ known.T)[np.triu_indices(len(known), 1)]
    return 1.0 - float(cosines.max())
