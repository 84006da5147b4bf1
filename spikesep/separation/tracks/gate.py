"""The gate: outputs without a voice of their own become silent, and what leaked into them returns.

The sum of the outputs stays the same while anyone talks. The voice of a person who talks alone is
therefore the recording itself, without the gaps that leakage would leave in it.
"""

import numpy as np

from spikesep.separation.audio.resampling import Window
from spikesep.separation.tracks.activity import (
    FRAMES_PER_SECOND,
    REACH,
    ActivityDetector,
    constant_runs,
)

CHUNK = 25
"""Frames that are processed at once, so that blocks of any size give the same samples."""
GAIN_RANGE, RIDGE = 4.0, 0.01
"""Largest ratio of the gains of two outputs, and the weight of equal ones."""


class Gate:
    """Gates the outputs of a separator while they arrive.

    Args:
        n_outputs: outputs of the separator, S.
        sample_rate: sample rate in Hz.
    """

    latency = (CHUNK + REACH + 1) / FRAMES_PER_SECOND
    """Largest delay of a sample in seconds."""

    def __init__(self, n_outputs: int, sample_rate: int):
        self._n, self._rate = n_outputs, sample_rate
        self._input = Window()
        self._n_measured = self._n_gated = 0  # frames
        self._gram, self._target = np.zeros((n_outputs, n_outputs)), np.zeros(n_outputs)
        self._gains = np.ones(n_outputs)
        self._detector = ActivityDetector(n_outputs)
        self._power = np.zeros((n_outputs, 0))  # of the frames that are not gated yet
        self._matrix = np.zeros((n_outputs, n_outputs), np.float32)

    def push(self, mixture: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take further samples [n] of the mixture and [S, n] of the outputs.

        Returns:
            Samples [S, m] of the gated outputs that follow those returned before, and the activity
            of their frames, bool [S, K].
        """
        self._input.push(np.concatenate([mixture[None], outputs]).astype(np.float32))
        results = [self._gated(np.zeros((self._n, 0), bool))]
        while frame_start(self._n_measured + CHUNK, self._rate) <= self._input.stop:
            results.append(self._gated(self._detector.push(self._measure(CHUNK))))
        return _joined(results)

    def flush(self) -> tuple[np.ndarray, np.ndarray]:
        """End the recording; return the remaining samples and activity."""
        self._input.push(np.zeros((self._n + 1, 0), np.float32))
        n_frames = -(-self._input.stop * FRAMES_PER_SECOND // self._rate)
        results = [self._gated(self._detector.push(self._measure(n_frames - self._n_measured)))]
        return _joined([*results, self._gated(self._detector.flush())])

    def _measure(self, n_frames: int) -> np.ndarray:
        """Return the power of the outputs in the next frames at the level of the mixture, [S, n].

        The gains are those with which the outputs so far add up to the mixture.
        """
        bounds = frame_start(np.arange(n_frames + 1) + self._n_measured, self._rate)
        bounds = bounds.clip(max=self._input.stop)
        samples = self._input.between(int(bounds[0]), int(bounds[-1]))
        self._n_measured += n_frames
        if not samples.shape[1]:
            return np.zeros((self._n, n_frames))
        mixture, outputs = samples[0].astype(np.float64), samples[1:].astype(np.float64)
        self._gram += outputs @ outputs.T
        self._target += outputs @ mixture
        self._gains = relative_gains(self._gram, self._target)
        squares = np.cumsum(np.square(outputs), axis=1)
        squares = np.pad(squares, ((0, 0), (1, 0)))[:, bounds - bounds[0]]
        power = np.diff(squares) / np.diff(bounds).clip(min=1) * self._gains[:, None] ** 2
        self._power = np.concatenate([self._power, power], 1)
        return power

    def _gated(self, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gate the frames whose activity [S, K] has been decided."""
        n_frames = min(active.shape[1], self._power.shape[1])
        bounds = frame_start(np.arange(n_frames + 1) + self._n_gated, self._rate)
        bounds = bounds.clip(max=self._input.stop)
        if bounds[0] == bounds[-1]:
            return np.zeros((self._n, 0), np.float32), active[:, :0]
        samples = self._input.between(int(bounds[0]), int(bounds[-1]))
        gains = self._gains[:, None].astype(np.float32)
        scaled, gated = samples[1:] * gains, np.empty_like(samples[1:])
        loudest = _loudest(active[:, :n_frames], self._power[:, :n_frames])
        for first, last in constant_runs(np.vstack([active[:, :n_frames], loudest])):
            matrix = routing(active[:, first], int(loudest[first]))
            start, middle, stop = (bounds[[first, first + 1, last]] - bounds[0]).tolist()
            gated[:, start:middle] = route(scaled[:, start:middle], self._matrix, matrix)
            gated[:, middle:stop] = matrix @ scaled[:, middle:stop]
            self._matrix = matrix
        self._n_gated += n_frames
        self._power = self._power[:, n_frames:]
        self._input.advance(int(bounds[-1]), 0)
        return gated / gains, active[:, :n_frames]


def frame_start(frame, sample_rate: int):
    """Return the sample at which a frame begins; of an array of frames, an array."""
    return frame * sample_rate // FRAMES_PER_SECOND


def _loudest(active: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Return the loudest active output of each frame, [K]; 0 where it does not matter."""
    matters = active.any(0) & ~active.all(0)
    return np.where(matters, np.where(active, power, -1.0).argmax(0), 0)


def routing(active: np.ndarray, loudest: int) -> np.ndarray:
    """Return the matrix [S, S] that maps outputs to gated outputs.

    Args:
        active: whether each output is active, [S].
        loudest: the active output that receives what the others have leaked.
    """
    matrix = np.diag(active.astype(np.float32))
    if active.any():
        matrix[loudest, ~active] = 1.0
    return matrix


def route(samples: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Apply a matrix [S, S] that changes linearly from `before` to `after` to samples [S, n]."""
    routed = after @ samples
    if np.array_equal(before, after):
        return routed
    share = np.linspace(0, 1, samples.shape[1], endpoint=False, dtype=np.float32)
    return (before @ samples) * (1 - share) + routed * share


def relative_gains(gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return gains with which the outputs add up to the mixture, relative to the largest.

    They are the least-squares ones, drawn towards equal gains, as the outputs tell nothing about
    them while one person talks.

    Args:
        gram: inner products of the outputs, [S, S].
        target: inner products of the outputs with the mixture, [S].
    """
    total = gram.sum()
    if not total > 0 or not target.sum() > 0:
        return np.ones(len(target))
    common = target.sum() / total
    ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    gains = common + np.linalg.solve(gram + ridge, target - gram.sum(1) * common)
    return (gains / gains.max()).clip(min=1 / GAIN_RANGE)


def _joined(results: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Join pairs of samples [S, m] and activity [S, K]."""
    samples, active = zip(*results, strict=True)
    return np.concatenate(samples, axis=1), np.concatenate(active, axis=1)
