"""Connectivity: how the inputs of a synapse reach its outputs, apart from its weights.

Engines, cost counts and conversion read this description and never a module. Weights have one
layout for all kinds of synapse, [C_out, C_in / groups, *kernel_size].
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from spikesep.spiking.synapses.table import ConnectionTable, Size, chain, windows


@dataclass(frozen=True)
class Pooling:
    """Average pooling before a synapse.

    Attributes:
        kernel_size, stride, padding: one number per dimension.
        obstacle: why it has no connection table; empty if it has one.
    """

    kernel_size: Size
    stride: Size
    padding: Size
    obstacle: str = ""

    @classmethod
    def of(cls, module: nn.AvgPool1d | nn.AvgPool2d) -> "Pooling":
        """The description of a pooling module."""
        n_dims = 2 if isinstance(module, nn.AvgPool2d) else 1
        plain = module.count_include_pad and not module.ceil_mode
        plain = plain and not getattr(module, "divisor_override", None)
        obstacle = "pooling with ceil_mode, divisor_override or count_include_pad=False"
        return cls(
            _sizes(module.kernel_size, n_dims),
            _sizes(module.stride, n_dims),
            _sizes(module.padding, n_dims),
            "" if plain else obstacle,
        )

    def output_shape(self, shape: Size) -> Size:
        """Shape of the output for an input [C, ...], without the batch.

        Raises:
            ValueError: the input does not fit; the message says why.
        """
        if len(shape) != 1 + len(self.kernel_size):
            raise ValueError(f"AvgPool{len(self.kernel_size)}d receives {list(shape)}")
        sizes = zip(shape[1:], self.kernel_size, self.stride, self.padding, strict=True)
        out = [(n + 2 * p - k) // s + 1 for n, k, s, p in sizes]
        if min(out) < 1:
            raise ValueError(f"pooling is larger than the {list(shape)} that it receives")
        return (shape[0], *out)


@dataclass(frozen=True)
class Connectivity(ABC):
    """Description of one synapse and of the weightless map before it.

    Attributes:
        in_channels: channels that the synapse reads, behind the map before it.
        out_channels: neurons at each output position.
        groups: blocks of channels that are not connected with each other.
        pooling: the average poolings before the synapse, in order.
        flattens: whether a Flatten follows them.
        obstacle: why the map before the synapse has no connection table; empty if it has one.
        before: the map itself, or None.
    """

    in_channels: int
    out_channels: int
    groups: int = 1
    pooling: tuple[Pooling, ...] = ()
    flattens: bool = False
    obstacle: str = ""
    before: nn.Module | None = field(default=None, compare=False)

    multiplies: ClassVar[bool] = True
    """Whether the analog network multiplies; a shortcut of weight one adds."""

    @abstractmethod
    def project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The synapse alone: weighted sums of [batch, ...], without the map before it."""

    @abstractmethod
    def windows(self, image: Size) -> tuple[np.ndarray, np.ndarray, Size]:
        """Connections from positions of a shape, without the map before the synapse.

        Returns:
            Input positions [n_positions, n_entries] with -1 for padding, the tap of each entry
            [n_entries], and the shape of the output positions.

        Raises:
            NotImplementedError: the padding is not zeros.
        """

    @abstractmethod
    def output_shape(self, shape: Size) -> Size:
        """Shape of the output for an input [C, ...] or [..., C], without the batch.

        Raises:
            ValueError: the input does not fit; the message says why.
        """

    @property
    @abstractmethod
    def n_phases(self) -> int:
        """An input position meets one in `n_phases` of the taps, apart from borders."""

    @property
    @abstractmethod
    def describe(self) -> str:
        """Kind and sizes, as a plan of conversion prints them."""

    @property
    def out_channels_last(self) -> bool:
        """Whether outputs are [batch, ..., C] rather than [batch, C, ...]."""
        return False

    @property
    def in_channels_last(self) -> bool:
        """Whether inputs are [batch, ..., C] rather than [batch, C, ...]."""
        return False

    @property
    def keeps_shape(self) -> bool:
        """Whether each output reads the input in its own place, with as many outputs as inputs."""
        return False

    @property
    def home(self) -> Size:
        """The tap through which an output of a synapse that `keeps_shape` reads its own place."""
        return ()

    def own(self, x: Tensor) -> Tensor:
        """The inputs in the places of the outputs of a synapse that `keeps_shape`."""
        return x

    def unit_kernel(self, weight: Tensor) -> Tensor:
        """The weight with which a synapse that `keeps_shape` returns its input."""
        unit = torch.zeros_like(weight)
        channels = torch.arange(len(weight))
        unit[(channels, channels % weight.shape[1], *self.home)] = 1.0
        return unit

    # The map before the synapse.

    @property
    def divisor(self) -> int:
        """Number of inputs that the pooling averages: what it divides a sum by."""
        return prod(size for pooling in self.pooling for size in pooling.kernel_size)

    def pool(self, x: Tensor) -> Tensor:
        """The map before the synapse, applied to [batch, ...]."""
        return x if self.before is None else self.before(x)

    def transmit(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map before the synapse, then the synapse: [batch, ...] -> [batch, ...]."""
        return self.project(self.pool(x), weight, bias)

    def without_map(self) -> "Connectivity":
        """The same synapse with no map before it."""
        return replace(self, pooling=(), flattens=False, obstacle="", before=None)

    # Layouts.

    def per_output(self, values: Tensor) -> Tensor:
        """Values per output channel, [C_out], shaped to broadcast over outputs [batch, ...]."""
        return values

    def to_rows(self, x: Tensor) -> Tensor:
        """Inputs [n, batch, ...] as rows [n, batch * positions, channels]."""
        return (x if self.in_channels_last else x.movedim(2, -1)).flatten(1, -2)

    def from_rows(self, rows: Tensor, batch: int, shape: Size) -> Tensor:
        """Outputs in rows [n, batch * positions, channels] as [n, batch, ...].

        Args:
            rows: the outputs.
            batch: number of examples.
            shape: shape of the output positions.
        """
        out = rows.unflatten(1, (batch, *shape))
        return out if self.out_channels_last else out.movedim(-1, 2)

    def tap_matrices(self, weight: Tensor, n_taps: int) -> Tensor:
        """Weights as one matrix per tap, [n_taps, C_in / groups, C_out]."""
        return weight.flatten(1).unflatten(1, (-1, n_taps)).permute(2, 1, 0)

    def spread(self, values: Tensor, n_weights: int) -> Tensor:
        """Values per input channel, repeated for each weight of a neuron.

        Args:
            values: [channels before flattening].
            n_weights: weights of one neuron.

        Returns:
            [groups, n_weights].
        """
        n_taps = n_weights * self.groups // len(values)
        return values.view(self.groups, -1).repeat_interleave(n_taps, 1)

    def sum_outputs(self, values: Tensor) -> Tensor:
        """Sums of values shaped like the output over all but the channels, [C_out]."""
        return sum_per_channel(values, self.out_channels_last)

    def sum_inputs(self, values: Tensor) -> Tensor:
        """Sums of values shaped like the input over all but the channels, [C]."""
        return sum_per_channel(values, self.in_channels_last)

    # Connection tables.

    def require_table(self) -> None:
        """Check that there is a connection table.

        Raises:
            NotImplementedError: the map before the synapse, or its padding, has none.
        """
        if self.obstacle:
            raise NotImplementedError(self.obstacle)

    @property
    def has_table(self) -> bool:
        """Whether there is a connection table."""
        try:
            self.require_table()
        except NotImplementedError:
            return False
        return True

    def table(self, shape: Size) -> ConnectionTable:
        """The connection table for inputs [batch, *shape].

        Raises:
            NotImplementedError: see `require_table`.
        """
        self.require_table()
        return _table(self, tuple(shape))

    # Counts of synapses.

    def reached(self, n_channels: int, kept: Tensor | None = None) -> Tensor:
        """Mean number of synapses that a spike from each input channel reaches, ignoring borders.

        Args:
            n_channels: channels before flattening.
            kept: bool, the shape of the weight: synapses that pruning left; None for all.

        Returns:
            [n_channels].
        """
        if kept is None:
            return torch.full((n_channels,), self.fan_out)
        n_taps = kept[0].numel() * self.groups // n_channels
        return self.reached_by_tap(kept, n_taps).sum(1) / self.phases(n_taps)

    @property
    def fan_out(self) -> float:
        """Mean number of synapses that one spike reaches, ignoring borders."""
        return self.out_channels // self.groups * self.n_taps / self.n_phases

    @property
    def n_taps(self) -> int:
        """Positions of the kernel."""
        return 1

    def reached_by_tap(self, kept: Tensor, n_taps: int) -> Tensor:
        """Number of neurons that each input channel reaches through each tap, [C_in, n_taps]."""
        return kept.flatten(1).unflatten(0, (self.groups, -1)).sum(1).reshape(-1, n_taps)

    def n_arriving(self, count: Tensor, kept: Tensor | None = None) -> float:
        """Synaptic operations for spike counts per input, exact at borders.

        Args:
            count: [batch, ...], shaped like the layer's input. Every spike that enters pooling
                reaches the synapse.
            kept: synapses that pruning left; None for all.
        """
        pooled = self.pool(count) * self.divisor
        return self.without_map()._n_arriving(pooled, kept)

    def n_macs(self, shape: Size, kept: Tensor | None = None) -> float:
        """Multiply-accumulates for an input of a shape, behind pooling, exact at borders.

        Args:
            shape: [batch, ...].
            kept: synapses that pruning left; None for all.
        """
        if not self.multiplies:
            return 0.0
        pooled = self.pool(torch.empty(shape, device="meta")).shape
        bare = self.without_map()
        table = bare.zero_padded().table(pooled[1:])
        if kept is None:
            n_pairs = bare.in_channels * (bare.out_channels // bare.groups)
            return float(pooled[0] * n_pairs * table.reach.sum())
        by_tap = bare.reached_by_tap(kept, table.n_taps).sum(0).cpu().numpy()
        return float(pooled[0] * (table.reach_of_taps.sum(0) @ by_tap))

    def _n_arriving(self, count: Tensor, kept: Tensor | None) -> float:
        rows = self.to_rows(count.double()[None])[0].unflatten(0, (len(count), -1)).sum(0)
        table = self.zero_padded().table(count.shape[1:])
        n_groups_out = self.out_channels // self.groups
        if kept is None:
            return float(rows.sum(1).cpu().numpy() @ table.reach) * n_groups_out
        by_tap = rows @ self.reached_by_tap(kept, table.n_taps).to(rows)
        return float((by_tap.cpu().numpy() * table.reach_of_taps).sum())

    def zero_padded(self) -> "Connectivity":
        """The same synapse padding with zeros: what counts of synapses assume."""
        return self

    def phases(self, n_taps: int) -> int:
        """`n_phases` of a synapse with a number of weights per input channel."""
        return self.n_phases


def sum_per_channel(values: Tensor, channels_last: bool) -> Tensor:
    """Sums of [batch, C, ...], or of [batch, ..., C], over all but the channels: [C]."""
    channels = values.ndim - 1 if channels_last else 1
    return values.sum([dim for dim in range(values.ndim) if dim != channels])


@lru_cache(maxsize=64)
def _table(connectivity: Connectivity, shape: Size) -> ConnectionTable:
    image = shape[:-1] if connectivity.in_channels_last else shape[1:]
    n_inputs = prod(image)
    table = np.arange(n_inputs, dtype=np.int32)[:, None]
    for pooling in connectivity.pooling:
        sides = [(size, size) for size in pooling.padding]
        still = (1,) * len(sides)
        cells, image = windows(image, pooling.kernel_size, pooling.stride, sides, still)
        table = chain(table, cells)
    cells, taps, image = connectivity.windows(image)
    taps = np.repeat(taps, table.shape[1])
    return ConnectionTable(chain(table, cells), taps, image, n_inputs)


def _sizes(size: int | Size, n_dims: int) -> Size:
    return (size,) * n_dims if isinstance(size, int) else tuple(size)
