"""Level of the voices of a recording that has been separated, and their arrangement as tracks."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from spikesep.separation.inference.output_level import PEAK, Level, LevelMeter, apply_gains
from spikesep.separation.inference.streaming import Stream
from spikesep.separation.tracks.rttm import Turn
from spikesep.separation.tracks.tracker import GatedStream

Blocks = Callable[[], Iterable[np.ndarray]]
"""Reads the estimates of a recording from the beginning, in blocks [n_voices, n]."""


def level_voices(
    blocks: Blocks, meter: LevelMeter, level: Level, streams: Sequence[Stream | GatedStream]
) -> tuple[Iterator[np.ndarray], float]:
    """Scale the voices of a recording and, if they were gated, arrange them as tracks.

    Args:
        blocks: the estimates of all streams; they are read twice if there are tracks.
        meter: statistics of these estimates.
        level: see `spikesep.separation.inference.output_level.set_level`.
        streams: the streams, after `flush`.

    Returns:
        Blocks of voices, float32 [n_voices, n], and the common factor that keeps them within full
        scale.
    """
    gated = [stream for stream in streams if isinstance(stream, GatedStream)]
    if not gated:
        gains, scale = meter.gains(level)
        return (apply_gains(block, gains) for block in blocks()), scale
    # An output has one gain, whichever track it belongs to.
    of_outputs = np.ones(len(meter.peaks))
    if level == "match-mix":
        matching, scale = meter.gains(level)
        of_outputs = matching / scale
    peaks = np.zeros(len(meter.peaks))
    for block in _arranged(blocks(), of_outputs, gated):
        peaks = np.maximum(peaks, np.abs(block).max(1, initial=0.0))
    of_tracks = np.ones(len(peaks))
    if level == "peak":
        of_tracks = np.divide(PEAK, peaks, out=np.zeros(len(peaks)), where=peaks > 0)
    scale = 1.0 / max(1.0, float((of_tracks * peaks).max()))
    arranged = _arranged(blocks(), of_outputs, gated)
    return (apply_gains(block, of_tracks * scale) for block in arranged), scale


def _arranged(
    blocks: Iterable[np.ndarray], gains: np.ndarray, streams: Sequence[GatedStream]
) -> Iterator[np.ndarray]:
    """Yield tracks [n_voices, n] of scaled outputs [n_voices, n], stream by stream."""
    arrangers = [stream.arranger() for stream in streams]
    for block in blocks:
        parts = np.split(block * gains[:, None], len(arrangers))
        tracks = [a.arrange(part) for a, part in zip(arrangers, parts, strict=True)]
        yield np.concatenate(tracks)


def turns_of(streams: Sequence[Stream | GatedStream]) -> tuple[tuple[Turn, ...], ...]:
    """Return who spoke when in each signal; nothing if the streams do not follow speakers."""
    return tuple(tuple(stream.turns) for stream in streams if isinstance(stream, GatedStream))
