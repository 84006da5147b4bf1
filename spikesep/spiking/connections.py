"""Which input positions reach which output position of a layer, as a table: one form for Linear, Conv1d and Conv2d,
with stride, padding, dilation and the average pooling or flattening that may come before.

A position is a place without channels: a frame, a pixel; a layer of vectors has one. With x [rows, C_in] and one weight
matrix a tap, potential[p] = sum over e of x[table[p, e]] @ weight[taps[e]].
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

NO_OPS = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)  # fmt: skip
"""What does nothing in inference."""


@dataclass(frozen=True, eq=False)
class Connections:
    """Of one layer, for inputs of one shape; the same object whenever asked for, so that it can be a key.

    Attributes:
        table: [n_positions, n_entries] int32, input positions; -1 is padding.
        taps: [n_entries] int32, which weight matrix.
        shape: of the output's positions.
        n_inputs: positions of the input.
    """

    table: np.ndarray
    taps: np.ndarray
    shape: tuple[int, ...]
    n_inputs: int

    @cached_property
    def reach(self) -> np.ndarray:
        """How often each input position stands in the table, [n_inputs] int64."""
        return np.bincount(self.table[self.table >= 0], minlength=self.n_inputs)

    @cached_property
    def reach_of_taps(self) -> np.ndarray:
        """How often each input position stands in the table with each weight matrix, [n_inputs, n_taps] int64."""
        n_taps = int(self.taps.max()) + 1
        places = self.table.astype(np.int64) * n_taps + self.taps
        return np.bincount(places[self.table >= 0], minlength=self.n_inputs * n_taps).reshape(
            -1, n_taps
        )

    def rows(self, batch: int) -> np.ndarray:
        """The table for a batch, whose positions lie one example behind the other, [batch * n_positions, n_entries]."""
        if batch == 1:
            return self.table
        first = self.n_inputs * np.arange(batch, dtype=np.int32)[:, None, None]
        return np.where(self.table < 0, -1, self.table + first).reshape(-1, self.table.shape[1])


def connect(layer: nn.Module, shape: tuple[int, ...]) -> Connections:
    """The connections of a layer or readout whose input is [batch, *shape].

    Raises:
        NotImplementedError: see `require_table`.
    """
    return _connect(*require_table(layer), tuple(shape))


def require_table(layer: nn.Module) -> tuple[tuple, tuple[tuple, ...]]:
    """A layer's geometry in plain numbers: of its synapse (none for Linear), and of each pooling before it.

    Raises:
        NotImplementedError: a padding or a map before the synapse that has no table.
    """
    pooled = []
    for module in _maps(layer):
        if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d)):
            pooled.append(_pooling(module))
        elif not isinstance(module, nn.Flatten):
            raise NotImplementedError(f"{type(module).__name__} before a synapse")
    synapse = layer.synapse
    if isinstance(synapse, nn.Linear):
        if pooled and channels_are_last(layer):
            raise NotImplementedError("pooling before Linear without Flatten")
        return ((), channels_are_last(layer)), tuple(pooled)
    return (synapse.kernel_size, synapse.stride, padding_of(synapse), synapse.dilation), tuple(
        pooled
    )


def has_table(layer: nn.Module) -> bool:
    """Whether `connect` knows a layer's geometry."""
    try:
        require_table(layer)
    except NotImplementedError:
        return False
    return True


def divisor(layer: nn.Module) -> float:
    """By how much the average pooling before a layer's synapse divides the sum of what reaches it."""
    factor = 1.0
    for module in _maps(layer):
        if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d)):
            size = module.kernel_size
            n_dims = 2 if isinstance(module, nn.AvgPool2d) else 1
            factor *= size**n_dims if isinstance(size, int) else prod(size)
    return factor


def to_rows(x: Tensor, layer: nn.Module) -> Tensor:
    """A layer's input [n, batch, ...] as [n, batch * positions, channels]."""
    return (x if channels_are_last(layer) else x.movedim(2, -1)).flatten(1, -2)


def from_rows(rows: Tensor, layer: nn.Module, batch: int, shape: tuple[int, ...]) -> Tensor:
    """A layer's output [n, batch * positions, channels] as [n, batch, ...]; `shape` is that of the positions."""
    out = rows.unflatten(1, (batch, *shape))
    return out if isinstance(layer.synapse, nn.Linear) else out.movedim(-1, 2)


def tap_matrices(synapse: nn.Module, weight: Tensor, n_taps: int) -> Tensor:
    """Weights [C_out, ...] as [n_taps, C_in a group, C_out]; a Linear behind flattened maps has a tap a position."""
    if isinstance(synapse, nn.Linear):
        weight = weight.unflatten(1, (-1, n_taps))
    return weight.flatten(2).permute(2, 1, 0)


def _maps(layer: nn.Module) -> tuple[nn.Module, ...]:
    before = layer.before
    maps = (
        () if before is None else tuple(before) if isinstance(before, nn.Sequential) else (before,)
    )
    return tuple(module for module in maps if not isinstance(module, NO_OPS))


def channels_are_last(layer: nn.Module) -> bool:
    """Whether a layer takes vectors, [batch, ..., C], and not maps, [batch, C, ...]."""
    return isinstance(layer.synapse, nn.Linear) and not any(
        isinstance(m, nn.Flatten) for m in _maps(layer)
    )


@lru_cache(maxsize=64)
def _connect(synapse: tuple, pooled: tuple[tuple, ...], shape: tuple[int, ...]) -> Connections:
    if synapse == ((), True):
        n = prod(shape[:-1])
        return Connections(
            np.arange(n, dtype=np.int32)[:, None], np.zeros(1, np.int32), shape[:-1], n
        )
    image = shape[1:]
    n_inputs = prod(image)
    table = np.arange(n_inputs, dtype=np.int32)[:, None]
    for sizes in pooled:
        window, image = _windows(image, *sizes)
        table = _chain(table, window)
    if synapse == ((), False):
        n, width = table.shape
        return Connections(
            table.reshape(1, -1), np.repeat(np.arange(n, dtype=np.int32), width), (), n_inputs
        )
    window, image = _windows(image, *synapse)
    taps = np.repeat(np.arange(window.shape[1], dtype=np.int32), table.shape[1])
    return Connections(_chain(table, window), taps, image, n_inputs)


def _pooling(module: nn.AvgPool1d | nn.AvgPool2d) -> tuple[tuple[int, ...], ...]:
    if (
        module.ceil_mode
        or not module.count_include_pad
        or getattr(module, "divisor_override", None)
    ):
        raise NotImplementedError(
            "pooling with ceil_mode, divisor_override or count_include_pad=False"
        )
    n_dims = 2 if isinstance(module, nn.AvgPool2d) else 1
    sizes = (module.kernel_size, module.stride, module.padding, 1)
    return tuple((size,) * n_dims if isinstance(size, int) else tuple(size) for size in sizes)


def padding_of(synapse: nn.Module) -> tuple[int, ...]:
    """Zeros before and behind the input of a convolution, a number for each of its dimensions.

    Raises:
        NotImplementedError: it pads otherwise.
    """
    if synapse.padding_mode != "zeros":
        raise NotImplementedError(f"padding_mode={synapse.padding_mode!r}")
    if not isinstance(synapse.padding, str):
        return synapse.padding
    spans = [d * (k - 1) for d, k in zip(synapse.dilation, synapse.kernel_size, strict=True)]
    if synapse.padding == "same" and any(span % 2 for span in spans):
        raise NotImplementedError("padding='same' that is longer on one side")
    return tuple(span // 2 if synapse.padding == "same" else 0 for span in spans)


def _windows(
    image: tuple[int, ...], kernel, stride, padding, dilation
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Positions under a sliding window, [n_windows, n_cells], -1 in the padding; and the shape of the windows."""
    lift = (1,) * (2 - len(image))
    numbers = torch.arange(1, prod(image) + 1, dtype=torch.float64).view(1, 1, *lift, *image)
    still = (0,) * len(lift)
    cells = F.unfold(
        numbers, (*lift, *kernel), (*lift, *dilation), (*still, *padding), (*lift, *stride)
    )[0].T
    spans = zip(image, kernel, stride, padding, dilation, strict=True)
    shape = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in spans)
    return cells.numpy().astype(np.int32) - 1, shape


def _chain(table: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Windows over positions that themselves stand for several inputs each."""
    entries = np.where(window[..., None] < 0, -1, table[window])
    return np.ascontiguousarray(entries.reshape(len(window), -1), dtype=np.int32)
