"""Level of the voices of a recording that has been separated, and their arrangement as tracks."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from spikesep.separation.inference.band.high_bands import HighBands
from spikesep.separation.inference.output_level import PEAK, Level, LevelMeter, apply_gains
from spikesep.separation.inference.streaming import Stream
from spikesep.separation.tracks.rttm import Turn
from spikesep.separation.tracks.tracker import GatedStream

Blocks = Callable[[], Iterable[np.ndarray]]
"""Reads the estimates of a recording from the beginning, in blocks [n_voices, n]; followed by rows
of the separated signals, [n_voices + n_signals, n], if the voices get a high band."""


def level_voices(
    blocks: Blocks,
    meter: LevelMeter,
    level: Level,
    streams: Sequence[Stream | GatedStream],
    network_rate: int | None = None,
) -> tuple[Iterator[np.ndarray], float]:
    """Scale the voices of a recording, arrange them as tracks if they were gated, and widen them.

    Args:
        blocks: the estimates of all streams; they are read twice if there are tracks or high bands.
        meter: statistics of these estimates.
        level: see `spikesep.separation.inference.output_level.set_level`.
        streams: the streams, after `flush`.
        network_rate: sample rate of the separator in Hz, if the voices are to get the band above
            it; None if not.

    Returns:
        Blocks of voices, float32 [n_voices, n], and the common factor that keeps them within full
        scale.
    """
    gated = [stream for stream in streams if isinstance(stream, GatedStream)]
    if not gated and network_rate is None:
        gains, scale = meter.gains(level)
        return (apply_gains(block, gains) for block in blocks()), scale
    # An output has one gain, whichever track it belongs to.
    of_outputs, to_recording = np.ones(len(meter.peaks)), 1.0
    if level == "match-mix" or (level == "peak" and network_rate is not None):
        matching, scale = meter.gains("match-mix")
        of_outputs = matching / scale
    else:
        to_recording = meter.common_gain

    def arranged() -> Iterator[np.ndarray]:
        scaled = (_scaled(block, of_outputs) for block in blocks())
        return _arranged(scaled, streams, network_rate, to_recording)

    peaks = np.zeros(len(meter.peaks))
    for block in arranged():
        peaks = np.maximum(peaks, np.abs(block).max(1, initial=0.0))
    of_tracks = np.ones(len(peaks))
    if level == "peak":
        of_tracks = np.divide(PEAK, peaks, out=np.zeros(len(peaks)), where=peaks > 0)
    scale = 1.0 / max(1.0, float((of_tracks * peaks).max()))
    return (apply_gains(block, of_tracks * scale) for block in arranged()), scale


def _scaled(block: np.ndarray, gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split a block into outputs [n_voices, n], times their gains, and the rows of the signals."""
    return block[: len(gains)] * gains[:, None], block[len(gains) :]


def _arranged(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    streams: Sequence[Stream | GatedStream],
    network_rate: int | None,
    to_recording: float,
) -> Iterator[np.ndarray]:
    """Yield voices [n_voices, n] of scaled outputs [n_voices, n] and signals [n_signals, n].

    `to_recording` brings the voices to the level of the recording.
    """
    arrangers = [
        stream.arranger() if isinstance(stream, GatedStream) else None for stream in streams
    ]
    bands: list[HighBands] = []
    for outputs, signals in blocks:
        parts = np.split(outputs, len(streams))
        voices = [
            part if arranger is None else arranger.arrange(part)
            for arranger, part in zip(arrangers, parts, strict=True)
        ]
        if network_rate is not None:
            bands = bands or [
                HighBands(len(part), s.sample_rate, network_rate, gated=isinstance(s, GatedStream))
                for s, part in zip(streams, parts, strict=True)
            ]
            rows = zip(bands, voices, signals, strict=True)
            voices = [band.push(voice, signal, to_recording) for band, voice, signal in rows]
        yield np.concatenate(voices)
    if bands:
        yield np.concatenate([band.flush() for band in bands])


def turns_of(streams: Sequence[Stream | GatedStream]) -> tuple[tuple[Turn, ...], ...]:
    """Return who spoke when in each signal; nothing if the streams do not follow speakers."""
    return tuple(tuple(stream.turns) for stream in streams if isinstance(stream, GatedStream))
