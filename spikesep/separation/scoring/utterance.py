"""Scores of a single mixture, and of many on all cores."""

import math
from collections.abc import Collection, Iterator
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import read_channels
from spikesep.separation.data.kaldi import Mixture
from spikesep.separation.model.separator import Separator, load_separator
from spikesep.separation.scoring.inputs import STAGES
from spikesep.separation.scoring.metrics import Scores, score_utterance
from spikesep.workers import Workers

Record = dict[str, Any]
"""Scores and cost of one mixture, as a JSON object."""


def score_mixture(
    condition: str, mixture: Mixture, models: dict[str, Separator], metrics: Collection[str]
) -> Record:
    """Score the unprocessed mixture and the estimates of each model.

    Raises:
        SpikeSepError: a file is unreadable, the sources differ from the mixture in length, or the
            model separates another number of voices.
    """
    sample_rate = models["ann"].sample_rate
    mixed, *sources = (_read(path, sample_rate) for path in (mixture.mixture, *mixture.sources))
    if any(len(source) != len(mixed) for source in sources):
        raise SpikeSepError(
            f"{mixture.mixture}: its sources have another length; make the mixtures again"
        )
    targets = np.stack(sources)
    waves, costs = {"mixture": np.stack([mixed] * len(targets))}, {}
    with torch.inference_mode():
        for name, model in models.items():
            estimates, costs[name] = model.separate_with_cost(torch.from_numpy(mixed))
            if len(estimates) != len(targets):
                raise SpikeSepError(
                    f"{mixture.mixture}: has {len(targets)} voices, but the model separates "
                    f"{len(estimates)}; give --data with as many"
                )
            waves[name] = estimates.numpy()
    scores = {
        name: _to_json(score_utterance(wave, targets, mixed, sample_rate, metrics), metrics)
        for name, wave in waves.items()
    }
    return {
        "condition": condition,
        "utt": mixture.utt_id,
        "sexes": list(mixture.sexes),
        "seconds": len(mixed) / sample_rate,
        "scores": scores,
        "cost": asdict(costs["snn"]),
        "ann_cost": asdict(costs["ann"]),
    }


def _read(path: Path, sample_rate: int) -> np.ndarray:
    channels, rate = read_channels(path)
    if rate != sample_rate:
        raise SpikeSepError(
            f"{path}: is at {rate} Hz, the model at {sample_rate}; make mixtures at the model's "
            "rate (stage 1)"
        )
    return channels.mean(axis=0)


def _to_json(scores: Scores, metrics: Collection[str]) -> dict[str, Any]:
    values = {name: getattr(scores, name) for name in ("si_sdr", "si_sdri", *metrics)}
    return {
        **{name: None if math.isnan(value) else value for name, value in values.items()},
        "refused": scores.undefined,
    }


def load_models(exp: Path) -> dict[str, Separator]:
    """Load both separators of an experiment, the analog one first."""
    return {name: load_separator(exp / name) for name in STAGES}


def score_all(
    jobs: list[tuple[str, Mixture]],
    exp: Path,
    *,
    key: str,
    metrics: tuple[str, ...],
    n_jobs: int,
) -> Iterator[Record]:
    """Yield the record of each job as it finishes.

    Every job runs in one thread, so that scores do not depend on the number of processes.

    Args:
        jobs: conditions and mixtures.
        exp: folder of both models.
        key: see `Inputs`; models are loaded again when it changes.
        metrics: metrics besides SI-SDR.
        n_jobs: processes; 0 uses all cores, 1 computes in this process.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Workers(n_jobs) as workers:
            function = partial(_score_job, exp=exp, key=key, metrics=metrics)
            yield from workers.map(function, jobs, "scoring", chunk=1, in_order=False)
    finally:
        torch.set_num_threads(threads)


def _score_job(job: tuple[str, Mixture], exp: Path, key: str, metrics: tuple[str, ...]) -> Record:
    return score_mixture(*job, _cached_models(exp, key), metrics)


@lru_cache(maxsize=1)
def _cached_models(exp: Path, key: str) -> dict[str, Separator]:
    """Load both separators once per process, and again when the key changes."""
    torch.set_num_threads(1)
    return load_models(exp)
