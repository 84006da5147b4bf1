"""Arrangement of gated outputs as tracks, without clicks where an output changes its track."""

from collections.abc import Iterable

import numpy as np

from spikesep.separation.tracks.gate import frame_start

RAMP_SECONDS = 0.02


class Arranger:
    """Adds each output of a signal to the track of its speaker, block by block.

    Args:
        n_outputs: outputs of the separator, S; there are as many tracks.
        sample_rate: sample rate in Hz.
    """

    def __init__(self, n_outputs: int, sample_rate: int):
        self._rate = sample_rate
        self._ramp = max(1, round(RAMP_SECONDS * sample_rate))
        self._position = 0
        self._changes: list[tuple[int, np.ndarray]] = []  # first sample, map
        self._map = self._before = np.arange(n_outputs)
        self._since = -self._ramp  # sample at which the map changed

    def plan(self, starts: Iterable[int], maps: Iterable[np.ndarray]) -> None:
        """Append maps [S], each the tracks of the outputs from a frame on."""
        for start, map_ in zip(starts, maps, strict=True):
            self._changes.append((int(frame_start(start, self._rate)), map_))

    def arrange(self, outputs: np.ndarray) -> np.ndarray:
        """Arrange the next samples [S, n]."""
        tracks = np.zeros_like(outputs)
        done, n = 0, outputs.shape[1]
        while done < n:
            self._follow_plan()
            limits = [self._position + n - done, *(start for start, _ in self._changes[:1])]
            if self._position < self._since + self._ramp:
                limits.append(self._since + self._ramp)
            stop = done + min(limits) - self._position
            tracks[:, done:stop] = self._arranged(outputs[:, done:stop])
            self._position += stop - done
            done = stop
        return tracks

    def _follow_plan(self) -> None:
        while self._changes and self._changes[0][0] <= self._position:
            start, map_ = self._changes.pop(0)
            if not np.array_equal(map_, self._map):
                self._before, self._map, self._since = self._map, map_, start

    def _arranged(self, outputs: np.ndarray) -> np.ndarray:
        tracks = _added(outputs, self._map)
        elapsed = self._position - self._since
        if elapsed >= self._ramp:
            return tracks
        share = (elapsed + np.arange(outputs.shape[1], dtype=outputs.dtype)) / self._ramp
        return _added(outputs, self._before) * (1 - share) + tracks * share


def _added(outputs: np.ndarray, map_: np.ndarray) -> np.ndarray:
    """Add each output [S, n] to its track."""
    tracks = np.zeros_like(outputs)
    for output, track in zip(outputs, map_, strict=True):
        tracks[track] += output
    return tracks
