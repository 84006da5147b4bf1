"""Probabilities of speakers in mixing on the fly, balanced by speaker, sex and corpus."""

from collections.abc import Mapping, Sequence

import numpy as np

from spikesep.separation.data.corpora.table import Utterance

N_ROUNDS = 50
"""Rounds of proportional fitting; they converge within a few unless a corpus has one sex only."""


def speaker_probabilities(
    voices: Mapping[str, Sequence[Utterance]], by_amount: float, by_corpus: float = 1.0
) -> np.ndarray | None:
    """Return the probability of each speaker, or None if all are equal.

    Women and men have the same total probability. If `by_corpus` is not 1, sums over corpora and
    sexes are fitted in turn (iterative proportional fitting), sexes last.

    Args:
        voices: Utterances of each speaker.
        by_amount: Exponent of a speaker's total duration in the probability of the speaker.
        by_corpus: Exponent of a corpus's total in the probability of the corpus: 1 draws from
            corpora in proportion to their speakers, 0 from all equally often.
    """
    weights = np.array([sum(row.duration for row in rows) for rows in voices.values()]) ** by_amount
    sexes = np.array([rows[0].sex for rows in voices.values()])
    corpora = np.array([rows[0].corpus for rows in voices.values()])
    by_corpora = [corpora == corpus for corpus in np.unique(corpora)]
    if by_corpus != 1.0 and len(by_corpora) > 1:
        wanted = np.array([weights[group].sum() for group in by_corpora]) ** by_corpus
        wanted *= weights.sum() / wanted.sum()
        for _ in range(N_ROUNDS):
            for group, total in zip(by_corpora, wanted, strict=True):
                weights[group] *= total / weights[group].sum()
            _balance_sexes(weights, sexes)
    else:
        _balance_sexes(weights, sexes)
    return None if np.ptp(weights) < 1e-9 * weights.max() else weights / weights.sum()


def _balance_sexes(weights: np.ndarray, sexes: np.ndarray) -> None:
    """Scale the weights of women and men, in place, to the same total; keep that of both."""
    known = np.isin(sexes, ("f", "m"))
    total = weights[known].sum()
    groups = [sexes == sex for sex in ("f", "m") if (sexes == sex).any()]
    for group in groups:
        weights[group] *= total / len(groups) / weights[group].sum()
