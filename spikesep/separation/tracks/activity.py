"""Frame-wise activity of the outputs of a separator, from their levels."""

from itertools import pairwise

import numpy as np

FRAMES_PER_SECOND = 50
REACH = 10
"""Frames on either side over which the level of a frame is averaged."""
ON_DB, OFF_DB = 11.0, 14.0
"""An output becomes active above -ON_DB relative to the loudest, and inactive below -OFF_DB."""
FLOOR_DB = 35.0
"""All outputs are inactive if the loudest lies this far below the mean level of activity so far."""
ON, OFF, FLOOR = (10 ** (-margin / 10) for margin in (ON_DB, OFF_DB, FLOOR_DB))


class ActivityDetector:
    """Decides, `REACH` frames late, which outputs are active.

    Where one person talks, a separator passes most of the voice to one of its outputs, and the rest
    of it leaks into the others, 10 to 40 dB weaker. The level relative to the loudest output
    therefore tells whether an output has a voice of its own.

    Args:
        n_outputs: outputs of the separator.
    """

    def __init__(self, n_outputs: int):
        self._pending = np.zeros((n_outputs, REACH))  # silence before the beginning
        self._active = [False] * n_outputs
        self._energy, self._n_active = 0.0, 0

    def push(self, power: np.ndarray) -> np.ndarray:
        """Take the mean power of further frames, [n_outputs, n].

        Returns:
            Activity of the frames that are decided by now, bool [n_outputs, m].
        """
        self._pending = np.concatenate([self._pending, power], 1)
        width = 2 * REACH + 1
        n_ready = self._pending.shape[1] - width + 1
        if n_ready <= 0:
            return np.zeros((len(power), 0), bool)
        sums = np.cumsum(np.pad(self._pending, ((0, 0), (1, 0))), axis=1)
        levels = (sums[:, width:] - sums[:, :-width]).clip(min=0) / width
        self._pending = self._pending[:, n_ready:]
        decided = [self._decide(level) for level in levels.T.tolist()]
        return np.array(decided, bool).reshape(n_ready, -1).T

    def flush(self) -> np.ndarray:
        """Return the activity of the remaining frames; silence follows them."""
        return self.push(np.zeros((len(self._pending), REACH)))

    def _decide(self, levels: list[float]) -> list[bool]:
        """Decide about one frame from the smoothed power of each output, with hysteresis."""
        loudest = max(levels)
        if loudest <= 0 or loudest * self._n_active < self._energy * FLOOR:
            self._active = [False] * len(levels)
            return self._active
        self._energy, self._n_active = self._energy + loudest, self._n_active + 1
        bounds = [loudest * (OFF if active else ON) for active in self._active]
        self._active = [level >= bound for level, bound in zip(levels, bounds, strict=True)]
        return self._active


def constant_runs(frames: np.ndarray) -> list[tuple[int, int]]:
    """Return (first, stop) of each run of equal columns of frames [C, K]."""
    changes = (frames[:, 1:] != frames[:, :-1]).any(0)
    cuts = [0, *(np.flatnonzero(changes) + 1).tolist(), frames.shape[1]]
    return [(start, stop) for start, stop in pairwise(cuts) if stop > start]
