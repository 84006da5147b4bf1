"""Connection tables: which input positions each output position reads, and through which tap.

A position is a place in time or space, without channels: a frame or a pixel. A batch of vectors has
one position per vector. With rows x [positions, C_in] and one weight matrix per kernel tap, the
potential at position p is the sum over entries e of x[table[p, e]] @ weight[taps[e]].
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import numpy as np
import torch
from torch.nn import functional as F

Size = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ConnectionTable:
    """The connections of one synapse for inputs of one shape. One object per shape: usable as a
    key.

    Attributes:
        table: [n_positions, n_entries] int32, the input position of each entry; -1 is zero padding.
        taps: [n_entries] int32, the weight matrix of each entry.
        shape: shape of the output positions.
        n_inputs: number of input positions.
    """

    table: np.ndarray
    taps: np.ndarray
    shape: Size
    n_inputs: int

    @cached_property
    def n_taps(self) -> int:
        """Number of weight matrices."""
        return int(self.taps.max()) + 1

    @cached_property
    def reach(self) -> np.ndarray:
        """Number of entries that read each input position, [n_inputs] int64."""
        return np.bincount(self.table[self.table >= 0], minlength=self.n_inputs)

    @cached_property
    def reach_of_taps(self) -> np.ndarray:
        """Number of entries that read each input position through each tap, [n_inputs, n_taps]."""
        cells = self.table.astype(np.int64) * self.n_taps + self.taps
        n_cells = self.n_inputs * self.n_taps
        counts = np.bincount(cells[self.table >= 0], minlength=n_cells)
        return counts.reshape(-1, self.n_taps)

    @cached_property
    def kinds(self) -> tuple[np.ndarray, np.ndarray]:
        """Kinds of input positions, which differ in the taps that read them.

        Returns:
            The kind of each position [n_inputs] int64, and `reach_of_taps` of each kind,
            [n_kinds, n_taps].
        """
        reach, kind = np.unique(self.reach_of_taps, axis=0, return_inverse=True)
        return kind.reshape(-1).astype(np.int64), reach

    @property
    def per_tap(self) -> list[int]:
        """Inputs that reach a position through one weight: more than one behind pooling."""
        return [len(self.taps) // self.n_taps]

    def rows(self, batch: int) -> np.ndarray:
        """The table of a batch whose examples lie one behind the other in memory.

        Returns:
            [batch * n_positions, n_entries] int32.
        """
        if batch == 1:
            return self.table
        first = self.n_inputs * np.arange(batch, dtype=np.int32)[:, None, None]
        return np.where(self.table < 0, -1, self.table + first).reshape(-1, self.table.shape[1])


@dataclass(frozen=True, eq=False)
class JoinedTable:
    """The connections of several synapses onto the same positions, as those of one.

    The rows of all inputs lie one below the other, and so do the weight matrices of all taps.

    Attributes:
        parts: the tables.
    """

    parts: tuple[ConnectionTable, ...]

    @property
    def shape(self) -> Size:
        """Shape of the output positions."""
        return self.parts[0].shape

    @cached_property
    def taps(self) -> np.ndarray:
        """The weight matrix of each entry, [n_entries] int32."""
        begins = np.cumsum([0, *(part.n_taps for part in self.parts)])
        taps = [part.taps + begin for part, begin in zip(self.parts, begins[:-1], strict=True)]
        return np.concatenate(taps).astype(np.int32)

    @property
    def per_tap(self) -> list[int]:
        """See `ConnectionTable`; one number for each synapse."""
        return [n for part in self.parts for n in part.per_tap]

    def rows(self, batch: int) -> np.ndarray:
        """See `ConnectionTable`."""
        rows, begin = [], 0
        for part in self.parts:
            own = part.rows(batch)
            rows.append(np.where(own < 0, -1, own + begin))
            begin += batch * part.n_inputs
        return np.ascontiguousarray(np.concatenate(rows, 1), dtype=np.int32)


@lru_cache(maxsize=64)
def joined(parts: tuple[ConnectionTable, ...]) -> JoinedTable:
    """The joined table of several, one object for the same tables."""
    return JoinedTable(parts)


def windows(
    image: Size, kernel: Size, stride: Size, margins: list[tuple[int, int]], dilation: Size
) -> tuple[np.ndarray, Size]:
    """Positions under a sliding window.

    Returns:
        [n_windows, n_cells] int32 with -1 in the padding, and the shape of the windows.
    """
    lift = (1,) * (2 - len(image))
    numbers = torch.arange(1, prod(image) + 1, dtype=torch.float64).view(1, 1, *lift, *image)
    numbers = F.pad(numbers, [side for pair in reversed(margins) for side in pair])
    cells = F.unfold(numbers, (*lift, *kernel), (*lift, *dilation), 0, (*lift, *stride))[0].T
    spans = zip(image, kernel, stride, margins, dilation, strict=True)
    shape = tuple((n + sum(m) - d * (k - 1) - 1) // s + 1 for n, k, s, m, d in spans)
    return cells.numpy().astype(np.int32) - 1, shape


def chain(table: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Windows over positions that stand for several inputs each."""
    entries = np.where(window[..., None] < 0, -1, table[window])
    return np.ascontiguousarray(entries.reshape(len(window), -1), dtype=np.int32)
