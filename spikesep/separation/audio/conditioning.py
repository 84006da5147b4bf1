"""Removal of offset and level before separation, so that neither costs quality.

A constant offset is subtracted and the level is brought to a standard. Both are tracked block-wise
with a short look-ahead, so that a stream and a file of the same samples are treated alike.
"""

import numpy as np

CELL_SECONDS = 0.01
"""Length of the cells whose mean and power are tracked."""
LOOK_AHEAD = 10
"""Cells behind a sample that offset and level already take into account."""
CAUSAL_LOOK_AHEAD = 1
"""The same for causal separators; without any, the first cell of a voice would be amplified."""
OFFSET_CELLS = 100
"""Cells over which the offset is averaged."""
RELEASE_DB = 1.0
"""Decay of the tracked level per second."""
STANDARD_AMPLITUDE = 0.17
"""Level of the conditioned signal, that of the loudest cells of a training mixture."""
MIN_POWER = 1e-20
"""Power below which a signal is digital silence."""


class Conditioner:
    """Block-wise removal of offset and level, independent of the sizes of the blocks.

    The offset at a sample is the mean of about the last second, the level the largest power of a
    cell so far, with a slow release. Both look some cells ahead and are interpolated linearly
    within a cell. The conditioned samples depend neither on the gain of the input nor,
    after the first cells, on its offset.

    Args:
        sample_rate: sample rate in Hz.
        look_ahead: cells behind a sample to take into account, at least one.

    Attributes:
        cell: samples of a cell.
        look_ahead: see above.
    """

    def __init__(self, sample_rate: int, look_ahead: int = LOOK_AHEAD):
        self.cell = max(1, round(CELL_SECONDS * sample_rate))
        self.look_ahead = look_ahead
        self.latency = (look_ahead + 1) * self.cell / sample_rate
        """Largest delay of a sample in seconds."""
        self._release = 10 ** (-RELEASE_DB / 10 * CELL_SECONDS)
        self._samples = np.empty(0)  # not returned yet
        self._tracked: list[tuple[float, float]] = []  # mean and power behind each of their cells
        self._n_cells, self._mean, self._power = 0, 0.0, MIN_POWER

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples [n].

        Returns:
            [2, m] float32: conditioned samples that follow those returned before, and the factor
            that restores the level of each. m may be 0.
        """
        self._samples = np.concatenate([self._samples, samples])
        begin = len(self._tracked) * self.cell
        stop = len(self._samples) // self.cell * self.cell
        self._track(self._samples[begin:stop].reshape(-1, self.cell))
        return self._condition(max(0, len(self._tracked) - self.look_ahead))

    def flush(self) -> np.ndarray:
        """End the signal and return the rest, [2, m]."""
        n = len(self._samples)
        if rest := n - len(self._tracked) * self.cell:
            self._track(self._samples[None, n - rest :])
            self._samples = np.pad(self._samples, (0, self.cell - rest))
        n_cells = len(self._tracked)
        self._tracked += self._tracked[-1:] * self.look_ahead
        return self._condition(n_cells)[:, :n]

    def _track(self, cells: np.ndarray) -> None:
        """Follow mean and power through the next cells, [n_cells, length]."""
        for mean, variance in zip(cells.mean(1).tolist(), cells.var(1).tolist(), strict=True):
            self._n_cells += 1
            self._mean += (mean - self._mean) / min(self._n_cells, OFFSET_CELLS)
            power = variance + (mean - self._mean) ** 2
            self._power = max(power, self._power * self._release, MIN_POWER)
            self._tracked.append((self._mean, self._power))

    def _condition(self, n_cells: int) -> np.ndarray:
        """Remove offset and level from the first cells, and forget these."""
        ahead = self.look_ahead
        borders = np.array(self._tracked[ahead - 1 : ahead + n_cells]).reshape(-1, 2)
        borders[:, 1] = np.sqrt(borders[:, 1])
        ramp = np.arange(self.cell)[:, None] / self.cell
        values = borders[:-1, None] + ramp * np.diff(borders, axis=0)[:, None]
        offset, amplitude = values[..., 0], values[..., 1]
        cells, self._samples = np.split(self._samples, [n_cells * self.cell])
        del self._tracked[:n_cells]
        factor = amplitude / STANDARD_AMPLITUDE
        conditioned = (cells.reshape(-1, self.cell) - offset) / factor
        return np.stack([conditioned.ravel(), factor.ravel()]).astype(np.float32)


def condition(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Condition a whole signal [n] as `Conditioner` does, [2, n]."""
    conditioner = Conditioner(sample_rate)
    return np.concatenate([conditioner.push(samples), conditioner.flush()], axis=1)
