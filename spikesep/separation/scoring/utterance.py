"""Scores of a single mixture, and of many on all cores."""

import math
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spikesep.errors import SpikeSepError
from spikesep.separation.audio.files import read_channels
from spikesep.separation.inference.output_level import set_level
from spikesep.separation.inference.voices import are_heard
from spikesep.separation.model.separator import Separator, load_separator
from spikesep.separation.scoring.conversation import (
    diarization_error,
    level_below,
    quiet_level,
    score_turns,
)
from spikesep.separation.scoring.inputs import STAGES, Inputs, Job
from spikesep.separation.scoring.metrics import Scores, best_permutation, score_utterance
from spikesep.separation.scoring.voices import SeparatedVoices, separate
from spikesep.separation.tracks.embedder import SpeakerEmbedder, load_embedder
from spikesep.workers import Workers

Record = dict[str, Any]
"""Scores and cost of one mixture, as a JSON object."""


@dataclass(frozen=True)
class Models:
    """Networks of an experiment.

    Attributes:
        separators: the analog and the spiking separator, by kind.
        embedder: tells speakers apart in conversations.
    """

    separators: dict[str, Separator]
    embedder: SpeakerEmbedder | None = None


def score_mixture(job: Job, models: Models, metrics: Collection[str]) -> Record:
    """Score the unprocessed mixture and the estimates of each model.

    Raises:
        SpikeSepError: a file is unreadable, the sources differ from the mixture in length, or the
            model separates another number of voices.
    """
    mixture, has_voice = job.mixture, job.has_voice
    signals = _read_signals(job, models.separators["ann"])
    unprocessed = np.stack([signals.mixture] * len(signals.sources))
    baseline = score_utterance(
        unprocessed, *signals.all, signals.sample_rate, metrics, has_voice=has_voice
    )
    scores, costs = {"mixture": _to_json(baseline, metrics)}, {}
    with torch.inference_mode():
        for name, model in models.separators.items():
            found, costs[name] = separate(model, models.embedder, signals.mixture, bool(job.turns))
            for kind, voices in found.items():
                scores[f"{name}{kind}"] = _score_voices(job, voices, signals, metrics)
    return {
        "mode": job.mode,
        "condition": job.condition,
        "utt": mixture.utt_id,
        "sexes": [sex for sex, heard in zip(mixture.sexes, has_voice, strict=True) if heard],
        "voices": sum(has_voice),
        "seconds": len(signals.mixture) / signals.sample_rate,
        "scores": scores,
        "cost": asdict(costs["snn"]),
        "ann_cost": asdict(costs["ann"]),
    }


@dataclass(frozen=True)
class _Signals:
    """A mixture [T] and its sources [S, T]."""

    mixture: np.ndarray
    sources: np.ndarray
    sample_rate: int

    @property
    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """Sources and mixture."""
        return self.sources, self.mixture


def _read_signals(job: Job, model: Separator) -> _Signals:
    mixture, n_outputs = job.mixture, model.config.n_speakers
    mixed, *sources = (_read(path, model.sample_rate) for path in
                       (mixture.mixture, *mixture.sources))  # fmt: skip
    if any(len(source) != len(mixed) for source in sources):
        raise SpikeSepError(
            f"{mixture.mixture}: its sources have another length; make the mixtures again"
        )
    if n_outputs != len(sources):
        raise SpikeSepError(
            f"{mixture.mixture}: has {len(sources)} voices, but the model separates "
            f"{n_outputs}; give --data with as many"
        )
    return _Signals(mixed, np.stack(sources), model.sample_rate)


def _score_voices(
    job: Job, voices: SeparatedVoices, signals: _Signals, metrics: Collection[str]
) -> dict[str, Any]:
    """Score the estimates of a model: by metrics, by what it hears, and as a conversation."""
    mixture, rate = signals.mixture, signals.sample_rate
    estimates = voices.estimates
    if voices.turns is not None:
        estimates = _fill_silent(estimates, signals, job.has_voice)
    scores = score_utterance(estimates, *signals.all, rate, metrics, has_voice=job.has_voice)
    leveled, scale = set_level(voices.estimates, mixture, "match-mix")
    ordered = leveled[list(scores.permutation)] / scale
    empty = [voice for voice, heard in zip(ordered, job.has_voice, strict=True) if not heard]
    levels = [level_below(voice, mixture) for voice in empty]
    return {
        **_to_json(scores, metrics),
        "heard": int(are_heard(voices.seconds).sum()),
        "silence": float(np.mean(levels)) if levels else None,
        **(_score_conversation(job, voices, signals, ordered, scores) if job.turns else {}),
    }


def _fill_silent(tracks: np.ndarray, signals: _Signals, has_voice: tuple[bool, ...]) -> np.ndarray:
    """Give a speaker whose track [T] is silent the mixture, a gain of 0 dB, to have a score."""
    order = best_permutation(tracks, signals.sources)
    filled = tracks.copy()
    for output, heard in zip(order, has_voice, strict=True):
        if heard and not tracks[output].any():
            filled[output] = signals.mixture
    return filled


def _score_conversation(
    job: Job, voices: SeparatedVoices, signals: _Signals, ordered: np.ndarray, scores: Scores
) -> dict[str, Any]:
    """Score a conversation, whose voices [S, T] are in the order of the sources."""
    rate, found = signals.sample_rate, {}
    by_turn = score_turns(ordered, *signals.all, job.turns, rate)
    gain = by_turn["si_sdr_turns"] - (scores.si_sdr - scores.si_sdri)
    found["si_sdri_turns"] = gain if math.isfinite(gain) else None
    found["swaps"] = by_turn["swaps"]
    found["quiet"] = quiet_level(ordered, signals.sources, job.turns, rate)
    if voices.turns is not None:
        errors, speech = diarization_error(job.turns, voices.turns, len(signals.mixture) / rate)
        found |= {"der": 100 * errors / speech if speech else None, "speech": speech}
    return found


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
    jobs: list[Job], exp: Path, inputs: Inputs, metrics: tuple[str, ...], n_jobs: int
) -> Iterator[Record]:
    """Yield the record of each job as it finishes.

    Every job runs in one thread, so that scores do not depend on the number of processes.

    Args:
        jobs: mixtures to score.
        exp: folder of both models.
        inputs: what the scores depend on; models are loaded again when its key changes.
        metrics: metrics besides SI-SDR.
        n_jobs: processes; 0 uses all cores, 1 computes in this process.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Workers(n_jobs) as workers:
            function = partial(
                _score_job, exp=exp, tracks=inputs.tracks, key=inputs.key, metrics=metrics
            )
            yield from workers.map(function, jobs, "scoring", chunk=1, in_order=False)
    finally:
        torch.set_num_threads(threads)


def _score_job(
    job: Job, exp: Path, tracks: Path | None, key: str, metrics: tuple[str, ...]
) -> Record:
    return score_mixture(job, _cached_models(exp, tracks, key), metrics)


@lru_cache(maxsize=1)
def _cached_models(exp: Path, tracks: Path | None, key: str) -> Models:
    """Load all networks once per process, and again when the key changes."""
    torch.set_num_threads(1)
    return Models(load_models(exp), None if tracks is None else load_embedder(tracks).eval())
