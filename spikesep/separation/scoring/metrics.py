"""Metrics of an estimated voice: SI-SDR, SDR, PESQ and STOI, for the best pairing with sources.

SI-SDR is eq. 14 of the paper on signals without their means. SDR is that of BSS Eval, which allows
for a filter with 512 taps. PESQ (MOS-LQO) is narrow-band ITU-T P.862.1 at 8 kHz and wide-band
P.862.2 at 16 kHz; STOI is between 0 and 1. A metric that is not defined for a pair of signals is
nan, with the reason. Sources without a voice are left out.
"""

import math
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import torch
from pesq import PesqError
from pesq import pesq as _pesq
from pystoi import stoi as _stoi
from torchmetrics.functional import scale_invariant_signal_distortion_ratio, signal_distortion_ratio

DEFINITION = (
    "SI-SDR is 10 log10(|αs|² / |αs − ŝ|²) with α = ⟨ŝ, s⟩ / |s|², on signals whose means were "
    "removed; SI-SDRi is its gain over the unprocessed mixture"
)
SDR_TAPS = 512
PESQ_MODES = {8000: "nb", 16000: "wb"}
PESQ_NAMES = {"nb": "narrow-band P.862.1", "wb": "wide-band P.862.2"}
PESQ_SECONDS = 30.0
"""Longest signal for P.862, whose implementation has room for 50 utterances."""
SILENCE = 1e-9
"""Share of a signal's norm below which what is left without its mean is rounding."""
WORST_SI_SDR = -1e3
"""SI-SDR in dB that counts for undefined pairs when estimates are paired with sources."""


@dataclass(frozen=True)
class Scores:
    """Scores of one mixture: means over its sources that have a voice.

    Attributes:
        si_sdr, si_sdri, sdr: dB.
        pesq: MOS-LQO, 1 to 4.5.
        stoi: 0 to 1.
        permutation: `permutation[i]` is the estimate that belongs to source i.
        undefined: reason why a requested metric is nan, by its name. Metrics that were not
            requested are nan, too, and so are those that would be infinite: the gain over a
            mixture that is its only voice, and the SI-SDR and SDR of that mixture.
    """

    si_sdr: float
    si_sdri: float
    sdr: float
    pesq: float
    stoi: float
    permutation: tuple[int, ...]
    undefined: dict[str, str] = field(default_factory=dict)


class UndefinedMetricError(Exception):
    """A metric is not defined for these signals."""


def si_sdr(estimate: np.ndarray, source: np.ndarray) -> float:
    """Compute the scale-invariant SDR of two signals [samples] without their means, in dB.

    Both are scaled to unit norm first, so that the epsilon of torchmetrics has the same weight at
    every level.

    Raises:
        UndefinedMetricError: either signal is silent, constant or not finite.
    """
    pair = [
        torch.from_numpy(_unit_norm(signal, name))
        for signal, name in ((estimate, "estimate"), (source, "source"))
    ]
    return float(scale_invariant_signal_distortion_ratio(*pair, zero_mean=True))


def sdr(estimate: np.ndarray, source: np.ndarray) -> float:
    """Compute the SDR of BSS Eval (version 3, 512 taps) of two signals [samples], in dB.

    Raises:
        UndefinedMetricError: either signal is silent, not finite or shorter than the filter, or the
            filter cannot be solved for, as the source is too simple.
    """
    if len(source) < SDR_TAPS:
        raise UndefinedMetricError(f"shorter than {SDR_TAPS} samples")
    _unit_norm(estimate, "estimate")
    _unit_norm(source, "source")
    try:
        found, true = (
            torch.from_numpy(np.asarray(signal, dtype=np.float64)) for signal in (estimate, source)
        )
        return _finite(float(signal_distortion_ratio(found, true, filter_length=SDR_TAPS)))
    except torch.linalg.LinAlgError as error:
        raise UndefinedMetricError("the source is too simple for a 512-tap filter") from error


def pesq(estimate: np.ndarray, source: np.ndarray, sample_rate: int) -> float:
    """Compute PESQ of two signals [samples], narrow-band at 8 kHz and wide-band at 16 kHz.

    Longer signals than `PESQ_SECONDS` are cut into pieces; the mean of those with speech counts.

    Returns:
        MOS-LQO.

    Raises:
        UndefinedMetricError: either signal is silent or not finite, the sample rate is another, or
            P.862 detects no utterance.
    """
    if sample_rate not in PESQ_MODES:
        raise UndefinedMetricError(f"defined at 8000 and 16000 Hz, not {sample_rate}")
    _unit_norm(estimate, "estimate")
    _unit_norm(source, "source")
    n = max(1, math.ceil(len(source) / (PESQ_SECONDS * sample_rate)))
    pieces = zip(np.array_split(estimate, n), np.array_split(source, n), strict=True)
    values = [_attempt(lambda e=e, s=s: _pesq_of_piece(e, s, sample_rate)) for e, s in pieces]
    defined = [value for value in values if isinstance(value, float)]
    if not defined:
        raise next(value for value in values if isinstance(value, UndefinedMetricError))
    return float(np.mean(defined))


def _pesq_of_piece(estimate: np.ndarray, source: np.ndarray, sample_rate: int) -> float:
    if not source.any() or not estimate.any():
        raise UndefinedMetricError("a piece is silent")
    try:
        return _finite(float(_pesq(sample_rate, source, estimate, PESQ_MODES[sample_rate])))
    except (PesqError, ValueError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        reason = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise UndefinedMetricError(reason) from error


def stoi(estimate: np.ndarray, source: np.ndarray, sample_rate: int) -> float:
    """Compute the short-time objective intelligibility of two signals [samples], 0 to 1.

    Raises:
        UndefinedMetricError: either signal is silent or not finite, or less than 0.4 s of the
            source is speech.
    """
    _unit_norm(estimate, "estimate")
    _unit_norm(source, "source")
    with warnings.catch_warnings():
        # With too few frames pystoi warns and returns 1e-5.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return _finite(float(_stoi(source, estimate, sample_rate)))
        except (RuntimeWarning, ValueError) as error:
            raise UndefinedMetricError("too little speech in the source") from error


def best_permutation(estimates: np.ndarray, sources: np.ndarray) -> tuple[int, ...]:
    """Find the estimate of each source that maximizes the sum of SI-SDR.

    A pair whose SI-SDR is undefined counts as the worst, so that silent estimates are paired last.

    Args:
        estimates: [n_speakers, samples].
        sources: [n_speakers, samples].

    Returns:
        The index of the estimate of each source.
    """
    n = len(sources)
    table = np.full((n, n), WORST_SI_SDR)
    for source in range(n):
        for estimate in range(n):
            value = _attempt(lambda e=estimate, s=source: si_sdr(estimates[e], sources[s]))
            if isinstance(value, float):
                table[source, estimate] = value
    return max(
        permutations(range(n)), key=lambda order: sum(table[i, e] for i, e in enumerate(order))
    )


def score_utterance(
    estimates: np.ndarray,
    sources: np.ndarray,
    mixture: np.ndarray,
    sample_rate: int,
    metrics: Collection[str] = ("sdr", "pesq", "stoi"),
    *,
    has_voice: Sequence[bool] | None = None,
) -> Scores:
    """Score the estimates of one mixture.

    Args:
        estimates: [n_speakers, samples], in any order.
        sources: [n_speakers, samples].
        mixture: [samples].
        sample_rate: sample rate in Hz.
        metrics: which of `sdr`, `pesq` and `stoi` to compute besides SI-SDR.
        has_voice: whether each source has a voice; None if all have.

    Raises:
        ValueError: the shapes differ.
    """
    estimates, sources, mixture = (
        np.asarray(signal, dtype=np.float64) for signal in (estimates, sources, mixture)
    )
    if estimates.shape != sources.shape or mixture.shape != sources.shape[1:]:
        raise ValueError(f"shapes differ: {estimates.shape}, {sources.shape}, {mixture.shape}")
    order = best_permutation(estimates, sources)
    heard = np.flatnonzero(np.ones(len(sources)) if has_voice is None else has_voice)
    pairs = [(estimates[order[k]], sources[k]) for k in heard]
    unprocessed = [(mixture, source) for _, source in pairs]
    measures: dict[str, Callable[[], float]] = {
        "si_sdr": lambda: _mean(si_sdr, pairs),
        "si_sdri": lambda: _mean(si_sdr, pairs) - _mean(si_sdr, unprocessed),
        "sdr": lambda: _mean(sdr, pairs),
        "pesq": lambda: _mean(lambda e, s: pesq(e, s, sample_rate), pairs),
        "stoi": lambda: _mean(lambda e, s: stoi(e, s, sample_rate), pairs),
    }
    requested = {"si_sdr", "si_sdri", *metrics} - _infinite(pairs, mixture)
    values, undefined = {}, {}
    for name, measure in measures.items():
        value = _attempt(measure) if name in requested else math.nan
        if isinstance(value, UndefinedMetricError):
            undefined[name] = str(value)
            value = math.nan
        values[name] = value
    return Scores(**values, permutation=order, undefined=undefined)


def mean_si_sdr(estimates: np.ndarray, sources: np.ndarray) -> float:
    """Return the mean SI-SDR in dB of estimates [S, T], in the order of the sources.

    Raises:
        UndefinedMetricError: the SI-SDR of a pair is undefined.
    """
    return _mean(si_sdr, list(zip(estimates, sources, strict=True)))


def _infinite(pairs: list[tuple[np.ndarray, np.ndarray]], mixture: np.ndarray) -> set[str]:
    """Return the metrics that are infinite as the mixture is the only voice in it."""
    if len(pairs) != 1 or not np.array_equal(mixture, pairs[0][1]):
        return set()
    return {"si_sdri"} | ({"si_sdr", "sdr"} if np.array_equal(*pairs[0]) else set())


def _attempt(measure: Callable[[], float]) -> float | UndefinedMetricError:
    try:
        return measure()
    except UndefinedMetricError as error:
        return error


def _mean(
    metric: Callable[[np.ndarray, np.ndarray], float], pairs: list[tuple[np.ndarray, np.ndarray]]
) -> float:
    if not pairs:
        raise UndefinedMetricError("no source has a voice")
    return float(np.mean([metric(estimate, source) for estimate, source in pairs]))


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise UndefinedMetricError("no finite value")
    return value


def _unit_norm(signal: np.ndarray, name: str) -> np.ndarray:
    """Subtract the mean of a signal and scale it to unit norm, in float64.

    Raises:
        UndefinedMetricError: the signal is empty, constant or not finite.
    """
    signal = np.asarray(signal, dtype=np.float64)
    if not signal.size or not np.isfinite(signal).all():
        raise UndefinedMetricError(f"the {name} is {'not finite' if signal.size else 'empty'}")
    signal = signal / (np.abs(signal).max() or 1.0)
    centred = signal - signal.mean()
    norm = np.linalg.norm(centred)
    if norm <= SILENCE * np.linalg.norm(signal):
        raise UndefinedMetricError(f"the {name} is silent")
    return centred / norm
