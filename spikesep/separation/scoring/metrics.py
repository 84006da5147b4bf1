"""How good an estimate of a voice is: SI-SDR, SDR, PESQ and STOI, over the best pairing of estimates with sources.

SI-SDR is the paper's eq. 14 on signals whose means were removed. SDR is that of BSS Eval, which forgives a filter of
512 taps. PESQ is ITU-T P.862.1 narrow-band (MOS-LQO); STOI lies between 0 and 1. What cannot be measured is nan, with
the reason.
"""

import math
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import torch
from pesq import PesqError
from pesq import pesq as _pesq
from pystoi import stoi as _stoi
from torchmetrics.functional import scale_invariant_signal_distortion_ratio, signal_distortion_ratio

DEFINITION = (
    "SI-SDR is 10 log10(|αs|² / |αs − ŝ|²) with α = ⟨ŝ, s⟩ / |s|², on signals whose means were removed; "
    "SI-SDRi is its gain over the unprocessed mixture"
)
SDR_TAPS = 512
SILENCE = 1e-9  # of a signal's norm: what is left after its mean was removed is rounding


@dataclass(frozen=True)
class Scores:
    """The scores of one mixture: means over its sources.

    Attributes:
        si_sdr, si_sdri, sdr: dB.
        pesq: MOS-LQO, 1 to 4.5.
        stoi: 0 to 1.
        permutation: `permutation[i]` is the estimate that belongs to source i.
        refusals: why a metric is nan, by its name. A metric that was not asked for is nan without a reason.
    """

    si_sdr: float
    si_sdri: float
    sdr: float
    pesq: float
    stoi: float
    permutation: tuple[int, ...]
    refusals: dict[str, str] = field(default_factory=dict)


class RefusalError(Exception):
    """A metric is not defined for these signals."""


def si_sdr(estimate: np.ndarray, source: np.ndarray) -> float:
    """Scale-invariant SDR of two signals [samples] without their means, eq. 14, in dB.

    Both are brought to unit norm first, so that the metric's own epsilon weighs the same at every level.

    Raises:
        RefusalError: either is silent (or constant), or not finite.
    """
    pair = [
        torch.from_numpy(_unit_norm(signal, name))
        for signal, name in ((estimate, "estimate"), (source, "source"))
    ]
    return float(scale_invariant_signal_distortion_ratio(*pair, zero_mean=True))


def sdr(estimate: np.ndarray, source: np.ndarray) -> float:
    """SDR of BSS Eval (version 3, 512 taps) of two signals [samples], in dB.

    Raises:
        RefusalError: either is silent, not finite or shorter than the filter, or the source too simple to solve for it.
    """
    if len(source) < SDR_TAPS:
        raise RefusalError(f"shorter than {SDR_TAPS} samples")
    _unit_norm(estimate, "estimate"), _unit_norm(source, "source")
    try:
        pair = (
            torch.from_numpy(np.asarray(signal, dtype=np.float64)) for signal in (estimate, source)
        )
        return _finite(float(signal_distortion_ratio(*pair, filter_length=SDR_TAPS)))
    except torch.linalg.LinAlgError as error:
        raise RefusalError("the source is too simple for a 512-tap filter") from error


def pesq(estimate: np.ndarray, source: np.ndarray, sample_rate: int) -> float:
    """Narrow-band PESQ of two signals [samples] at 8 or 16 kHz, MOS-LQO.

    Raises:
        RefusalError: either is silent or not finite, the rate is another, or P.862 finds no utterance.
    """
    if sample_rate not in (8000, 16000):
        raise RefusalError(f"defined at 8000 and 16000 Hz, not {sample_rate}")
    _unit_norm(estimate, "estimate"), _unit_norm(source, "source")
    try:
        return _finite(float(_pesq(sample_rate, source, estimate, "nb")))
    except (PesqError, ValueError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise RefusalError(reason.decode() if isinstance(reason, bytes) else str(reason)) from error


def stoi(estimate: np.ndarray, source: np.ndarray, sample_rate: int) -> float:
    """Short-time objective intelligibility of two signals [samples], 0 to 1.

    Raises:
        RefusalError: either is silent or not finite, or less than 0.4 s of the source is speech.
    """
    _unit_norm(estimate, "estimate"), _unit_norm(source, "source")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", RuntimeWarning
        )  # pystoi warns, and gives 1e-5, when it has too few frames
        try:
            return _finite(float(_stoi(source, estimate, sample_rate)))
        except (RuntimeWarning, ValueError) as error:
            raise RefusalError("too little speech in the source") from error


def best_permutation(estimates: np.ndarray, sources: np.ndarray) -> tuple[int, ...]:
    """The estimate of each source, so that the sum of SI-SDR is largest; both are [n_speakers, samples].

    A pair without an SI-SDR counts as the worst there is, so that a silent estimate is paired last.
    """
    n = len(sources)
    table = np.full((n, n), -1e3)
    for source in range(n):
        for estimate in range(n):
            value = _attempt(lambda e=estimate, s=source: si_sdr(estimates[e], sources[s]))
            table[source, estimate] = value if isinstance(value, float) else -1e3
    return max(
        permutations(range(n)), key=lambda order: sum(table[i, e] for i, e in enumerate(order))
    )


def score_utterance(
    estimates: np.ndarray,
    sources: np.ndarray,
    mixture: np.ndarray,
    sample_rate: int,
    metrics: Collection[str] = ("sdr", "pesq", "stoi"),
) -> Scores:
    """Score the estimates of one mixture.

    Args:
        estimates: [n_speakers, samples], in any order.
        sources: [n_speakers, samples].
        mixture: [samples].
        sample_rate: Hz.
        metrics: of `sdr`, `pesq`, `stoi`, those to compute beside SI-SDR.
    """
    estimates, sources, mixture = (
        np.asarray(signal, dtype=np.float64) for signal in (estimates, sources, mixture)
    )
    if estimates.shape != sources.shape or mixture.shape != sources.shape[1:]:
        raise ValueError(f"shapes differ: {estimates.shape}, {sources.shape}, {mixture.shape}")
    order = best_permutation(estimates, sources)
    pairs = list(zip(estimates[list(order)], sources, strict=True))
    unprocessed = [(mixture, source) for source in sources]
    measures: dict[str, Callable[[], float]] = {
        "si_sdr": lambda: _mean(si_sdr, pairs),
        "si_sdri": lambda: _mean(si_sdr, pairs) - _mean(si_sdr, unprocessed),
        "sdr": lambda: _mean(sdr, pairs),
        "pesq": lambda: _mean(lambda e, s: pesq(e, s, sample_rate), pairs),
        "stoi": lambda: _mean(lambda e, s: stoi(e, s, sample_rate), pairs),
    }
    wanted = {"si_sdr", "si_sdri", *metrics}
    outcome = {
        name: _attempt(measure) if name in wanted else math.nan
        for name, measure in measures.items()
    }
    refusals = {
        name: str(value) for name, value in outcome.items() if isinstance(value, RefusalError)
    }
    return Scores(**{name: math.nan if name in refusals else value for name, value in outcome.items()},
                  permutation=order, refusals=refusals)  # fmt: skip


def _attempt(measure: Callable[[], float]) -> float | RefusalError:
    try:
        return measure()
    except RefusalError as refusal:
        return refusal


def _mean(
    metric: Callable[[np.ndarray, np.ndarray], float], pairs: list[tuple[np.ndarray, np.ndarray]]
) -> float:
    return float(np.mean([metric(estimate, source) for estimate, source in pairs]))


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise RefusalError("no finite value")
    return value


def _unit_norm(signal: np.ndarray, name: str) -> np.ndarray:
    """The signal in float64 without its mean, at unit norm; refused where nothing is left of it."""
    signal = np.asarray(signal, dtype=np.float64)
    if not signal.size or not np.isfinite(signal).all():
        raise RefusalError(f"the {name} is {'not finite' if signal.size else 'empty'}")
    signal = signal / (np.abs(signal).max() or 1.0)
    centred = signal - signal.mean()
    norm = np.linalg.norm(centred)
    if norm <= SILENCE * np.linalg.norm(signal):
        raise RefusalError(f"the {name} is silent")
    return centred / norm
