"""Scores of conversations: turns, swaps, silence, and who spoke when.

A conversation is a mixture whose turns are known from an `rttm` file. Over minutes, a separator may
change which of its outputs has which speaker; these scores tell what that costs.
"""

import math
from collections.abc import Sequence
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np

from spikesep.errors import SpikeSepError
from spikesep.separation.data.kaldi import Mixture
from spikesep.separation.scoring.metrics import UndefinedMetricError, mean_si_sdr
from spikesep.separation.tracks.rttm import Turn, read_rttm

LEAST_SECONDS = 0.25
"""Least speech of a speaker between two beginnings of turns for a swap to count."""
MARGIN_SECONDS = 0.2
"""Time around the turns of a speaker that does not count as silence, for reverberation."""
COLLAR_SECONDS = 0.25
"""Tolerance on either side of every boundary of the reference in the diarization error."""
MOST_DB = 100.0
"""Level below the mixture that counts for exact silence."""


def read_turns(directory: Path, mixtures: Sequence[Mixture]) -> dict[str, tuple[Turn, ...]]:
    """Read the turns of each conversation from `rttm` in a data directory; empty if there is none.

    A mixture in which nobody talks twice is no conversation.

    Speakers are numbered as the sources of their mixture, from 1.

    Raises:
        SpikeSepError: the file is damaged, a mixture has no turn in it, or a speaker no source.
    """
    path = directory / "rttm"
    if not path.is_file():
        return {}
    lines, found = read_rttm(path), {}
    for mixture in mixtures:
        listed = lines.get(mixture.utt_id, [])
        if not listed:
            raise SpikeSepError(f"{path}: no turn of {mixture.utt_id}; make the mixtures again")
        unknown = {name for name, _, _ in listed} - set(mixture.speakers)
        if unknown:
            raise SpikeSepError(
                f"{path}: {min(unknown)} is no speaker of {mixture.utt_id}; make the mixtures again"
            )
        if len(listed) == len({name for name, _, _ in listed}):
            continue
        turns = [Turn(a, b, mixture.speakers.index(name) + 1) for name, a, b in listed]
        found[mixture.utt_id] = tuple(sorted(turns, key=lambda turn: (turn.start, turn.speaker)))
    return found


def score_turns(
    estimates: np.ndarray,
    sources: np.ndarray,
    mixture: np.ndarray,
    turns: Sequence[Turn],
    sample_rate: int,
) -> dict[str, float]:
    """Score the assignment of outputs to speakers.

    Args:
        estimates: voices, [S, T], at the level of the mixture.
        sources: speech of each speaker, [S, T]; sources without turns are silent.
        mixture: the conversation, [T]; it stands for a speaker whose estimate is silent.
        turns: turns of the sources.
        sample_rate: sample rate in Hz.

    Returns:
        `si_sdr_turns`: SI-SDR in dB with the best assignment from the beginning of each turn to
        that of the next; nan if it is undefined, as for a silent source. `swaps`: how often a
        minute a speaker comes back on another output than before.
    """
    cuts = _cuts(turns, sample_rate, sources.shape[1])
    order = tuple(range(len(sources)))
    ordered, n_swaps = np.empty_like(estimates), 0
    last: dict[int, int] = {}
    for start, stop in pairwise(cuts):
        order = _best_order(estimates[:, start:stop], sources[:, start:stop], order)
        ordered[:, start:stop] = estimates[list(order), start:stop]
        for speaker in _talking(turns, start / sample_rate, stop / sample_rate):
            output = order[speaker - 1]
            n_swaps += last.get(speaker, output) != output
            last[speaker] = output
    present = sorted({turn.speaker - 1 for turn in turns})
    voices = ordered[present]
    voices[~voices.any(1)] = mixture
    try:
        si_sdr_turns = mean_si_sdr(voices, sources[present])
    except UndefinedMetricError:
        si_sdr_turns = math.nan
    minutes = sources.shape[1] / sample_rate / 60
    return {"si_sdr_turns": si_sdr_turns, "swaps": n_swaps / minutes}


def _cuts(turns: Sequence[Turn], sample_rate: int, n_samples: int) -> list[int]:
    """Return the samples at which turns begin, and both ends of the conversation."""
    starts = {round(turn.start * sample_rate) for turn in turns[1:]}
    return sorted({0, n_samples, *(start for start in starts if start < n_samples)})


def _best_order(
    estimates: np.ndarray, sources: np.ndarray, before: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the output of each source that agrees best; if several do, the order before."""
    agreement = sources.astype(np.float64) @ estimates.astype(np.float64).T
    candidates = [before, *permutations(before)]
    return max(candidates, key=lambda order: sum(agreement[s, k] for s, k in enumerate(order)))


def _talking(turns: Sequence[Turn], start: float, stop: float) -> set[int]:
    """Return the speakers who talk for a while between two times in seconds."""
    return {
        turn.speaker
        for turn in turns
        if min(turn.stop, stop) - max(turn.start, start) >= LEAST_SECONDS
    }


def quiet_level(
    estimates: np.ndarray, sources: np.ndarray, turns: Sequence[Turn], sample_rate: int
) -> float | None:
    """Return how far the voices of silent speakers lie below those of the others, in dB.

    Args:
        estimates: voices in the order of the sources, [S, T], at the level of the mixture.
        sources: speech of each speaker, [S, T].
        turns: turns of the sources.
        sample_rate: sample rate in Hz.

    Returns:
        The mean over the speakers; None if nobody is silent while another talks.
    """
    talks = np.zeros((len(sources), sources.shape[1]), bool)
    near = talks.copy()
    for turn in turns:
        talks[turn.speaker - 1, _samples(turn, 0.0, sample_rate)] = True
        near[turn.speaker - 1, _samples(turn, MARGIN_SECONDS, sample_rate)] = True
    levels = []
    for speaker in sorted({turn.speaker - 1 for turn in turns}):
        silent = talks.any(0) & ~near[speaker]
        if silent.any():
            others = np.delete(sources, speaker, 0)[:, silent].sum(0, dtype=np.float64)
            levels.append(level_below(estimates[speaker, silent], others))
    return float(np.mean(levels)) if levels else None


def _samples(turn: Turn, margin: float, sample_rate: int) -> slice:
    start, stop = turn.start - margin, turn.stop + margin
    return slice(max(0, round(start * sample_rate)), max(0, round(stop * sample_rate)))


def level_below(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Return how far the level of a signal [T] lies below that of another, in dB, at most 100."""
    own, other = (float(np.square(x, dtype=np.float64).mean()) for x in (estimate, reference))
    if other <= 0:
        return 0.0
    return min(MOST_DB, 10 * np.log10(other / max(own, other * 10 ** (-MOST_DB / 10))))


def diarization_error(
    reference: Sequence[Turn], hypothesis: Sequence[Turn], seconds: float
) -> tuple[float, float]:
    """Compute the diarization error by pyannote.metrics, overlaps included.

    Args:
        reference: true turns.
        hypothesis: turns that were found; their speakers are matched with the true ones.
        seconds: duration of the recording.

    Returns:
        Seconds of missed, false and confused speech, and seconds of true speech. Times within
        `COLLAR_SECONDS` of a boundary of the reference do not count.
    """
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotation(turns: Sequence[Turn]) -> Annotation:
        found = Annotation()
        for k, turn in enumerate(turns):
            found[Segment(turn.start, min(turn.stop, seconds)), k] = turn.speaker
        return found.support()

    metric = DiarizationErrorRate(collar=2 * COLLAR_SECONDS)
    uem = Timeline([Segment(0, seconds)])
    parts = metric(annotation(reference), annotation(hypothesis), uem=uem, detailed=True)
    assert isinstance(parts, dict)
    errors = parts["missed detection"] + parts["false alarm"] + parts["confusion"]
    return float(errors), float(parts["total"])
