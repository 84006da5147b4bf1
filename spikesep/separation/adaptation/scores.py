"""Scores of networks on held-out mixtures of the same polarity, and with one voice inverted."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from spikesep.separation.audio.files import read_audio
from spikesep.separation.data.kaldi import Mixture
from spikesep.separation.model.separator import Separator, load_separator
from spikesep.separation.scoring.metrics import score_utterance

ALIGNED, TURNED = "aligned", "turned"
"""Mixtures as in front of one microphone, and the same with one voice inverted."""

Scores = dict[str, float]
"""Mean SI-SDRi in dB of each set of mixtures; nan where an estimate has none."""


def score_network(folder: Path, sets: Mapping[str, Sequence[Mixture]]) -> Scores:
    """Score a network on sets of mixtures.

    Args:
        folder: the model.
        sets: mixtures by name.
    """
    model = load_separator(folder)
    return {
        name: float(np.mean([_improvement(model, mixture) for mixture in mixtures]))
        for name, mixtures in sets.items()
    }


def is_better(result: Scores, start: Scores) -> bool:
    """Return whether a result separates aligned mixtures better than the start.

    Inverted voices do not count: one microphone records all voices with the same polarity.
    """
    if math.isnan(start[ALIGNED]):
        return not math.isnan(result[ALIGNED])
    return result[ALIGNED] > start[ALIGNED]


def _improvement(model: Separator, mixture: Mixture) -> float:
    """Return the SI-SDRi of a mixture in dB; nan if an estimate is silent or not finite."""
    mixed, *sources = (
        read_audio(path, model.sample_rate) for path in (mixture.mixture, *mixture.sources)
    )
    estimates = model.separate(torch.from_numpy(mixed)).numpy()
    found = score_utterance(estimates, np.stack(sources), mixed, model.sample_rate, ())
    return found.si_sdri
