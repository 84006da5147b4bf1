"""Description of a layer for an engine, and the same laid out as rows of channels.

Engines see these descriptions and never a layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikesep.spiking.integers import FixedPoint, Plan
from spikesep.spiking.signal import Coding, Signal
from spikesep.spiking.spike_trains import packed
from spikesep.spiking.synapses.connectivity import Connectivity
from spikesep.spiking.synapses.table import ConnectionTable, JoinedTable, joined

MERGED_CHANNELS = 64
"""Channels up to which groups are merged into one block with zeros between them: an engine spends
more time on a call per group than on products with zeros.
"""


@dataclass(frozen=True)
class Projection:
    """One synapse of a layer.

    Attributes:
        connectivity: which inputs reach which neurons.
        weight: of the neurons, activation units, [C_out, C_in / groups, ...].
    """

    connectivity: Connectivity
    weight: Tensor

    def transmit(self, x: Tensor, bias: Tensor | None, weight: Tensor | None = None) -> Tensor:
        """Weighted sums of [batch, ...], with this weight or another."""
        return self.connectivity.transmit(x, self.weight if weight is None else weight, bias)


@dataclass(frozen=True)
class LayerCall:
    """One spiking layer: its synapses and its neurons.

    Attributes:
        projections: the synapses onto the neurons, each with an input of its own.
        bias: [C_out], with what holds a leaking neuron at its initial potential.
        threshold: scalar, activation units.
        coding: N_s, encoding, the model of the neurons.
        fixed: the integers of the layer, or None.
        learns: whether the layer is in training; autocast holds for it then.
    """

    projections: tuple[Projection, ...]
    bias: Tensor
    threshold: Tensor
    coding: Coding
    fixed: FixedPoint | None
    learns: bool

    @property
    def connectivity(self) -> Connectivity:
        """Connectivity of the first synapse, whose output has the layout of all."""
        return self.projections[0].connectivity

    @property
    def has_table(self) -> bool:
        """Whether all synapses have a connection table."""
        return all(projection.connectivity.has_table for projection in self.projections)

    def current(self, signals: Sequence[Signal]) -> Tensor:
        """Synaptic current in activation units, [N_s, batch, ...], with b / N_s in every step.

        Behind spiking layers, the synapses of all steps are one product.
        """
        biases = [self.bias / self.coding.n_steps, *[None] * (len(signals) - 1)]
        first, *others = (
            self._arriving(*given) for given in zip(self.projections, signals, biases, strict=True)
        )
        return sum(others, start=first)

    def charge(self, signals: Sequence[Signal]) -> Tensor:
        """Current summed over the window, activation units, [batch, ...]."""
        biases = [self.bias, *[None] * (len(signals) - 1)]
        first, *others = (
            projection.transmit(signal.value, bias)
            for projection, signal, bias in zip(self.projections, signals, biases, strict=True)
        )
        return sum(others, start=first)

    def _arriving(self, projection: Projection, signal: Signal, bias: Tensor | None) -> Tensor:
        """Current of one synapse, [N_s, batch, ...], with a bias per step."""
        n_steps, weight = self.coding.n_steps, projection.weight
        if signal.graded is not None:
            return self._of_steps(projection, signal.graded, weight, bias)
        if signal.is_spiking:
            dtype = _product_dtype(weight)
            if len(signal.trains) > 1:
                return self._of_steps(projection, signal.drive(dtype), weight, bias)
            source = next(iter(signal.trains))  # zeros and ones are exact in any number format
            ones = packed.drive([source.words], [1.0], n_steps, dtype)
            return self._of_steps(projection, ones, weight * source.threshold, bias)
        if self.coding.encoding == "constant":
            current = projection.transmit(signal.value, bias, weight / n_steps)
            return current.expand(n_steps, *current.shape)
        impulse = projection.transmit(signal.value, bias)
        rest = torch.zeros_like(impulse)
        if bias is not None:
            rest = self.connectivity.per_output(bias).expand_as(impulse)
        return torch.stack([impulse, *[rest] * (n_steps - 1)])

    def _of_steps(
        self, projection: Projection, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Current that inputs x [N_s, batch, ...] cause in each step, [N_s, batch, ...]."""
        current = projection.transmit(x.flatten(0, 1), bias, weight)
        return current.unflatten(0, (self.coding.n_steps, -1))


@dataclass(frozen=True)
class RowLayout:
    """A layer and the spikes that reach it, with a row of channels for each position.

    The rows of several synapses' inputs lie one below the other, and so do their weights: together
    they are one synapse. Each source has spikes in the rows of its own synapse alone.

    Attributes:
        call: the layer.
        signals: the spikes that reach each synapse.
        connections: connection table of one example.
        weight: [n_taps, C_in per block, n_blocks, C_out per block]. Blocks are the groups of the
            synapse, merged where they are small.
        plan: the numbers of the layer, integers in fixed-point form.
        units: for each synapse, the sum of its sources' factors.
    """

    call: LayerCall
    signals: Sequence[Signal]
    connections: ConnectionTable | JoinedTable
    weight: Tensor
    plan: Plan
    units: list[float]

    @classmethod
    def of(cls, call: LayerCall, signals: Sequence[Signal]) -> "RowLayout":
        """The layout of a layer for the spikes of a signal for each synapse.

        Raises:
            NotImplementedError: a synapse has no connection table.
        """
        tables = tuple(
            projection.connectivity.table(signal.trains[0].shape[1:])
            for projection, signal in zip(call.projections, signals, strict=True)
        )
        factors, plan = _numbers(call, signals)
        n_taps = [table.n_taps for table in tables]
        if call.fixed is None:
            weight = _joined_blocks(call, n_taps)
        else:
            key = ("blocks", *n_taps)
            weight = call.fixed.arranged(key, lambda: _joined_blocks(call, n_taps))
        table = tables[0] if len(tables) == 1 else joined(tables)
        return cls(call, signals, table, weight, plan, [float(sum(own)) for own in factors])

    @property
    def batch(self) -> int:
        """Number of examples."""
        return self.signals[0].trains[0].shape[0]

    @cached_property
    def sources(self) -> list[Tensor]:
        """Words of each source, [n_words, rows, C_in] uint8."""
        rows = [
            [projection.connectivity.to_rows(trains.words) for trains in signal.trains]
            for projection, signal in zip(self.call.projections, self.signals, strict=True)
        ]
        return rows[0] if len(rows) == 1 else _joined_rows(rows, self.weight)

    @property
    def n_blocks(self) -> int:
        """Number of blocks of channels."""
        return self.weight.shape[2]

    @property
    def n_steps(self) -> int:
        """N_s."""
        return self.call.coding.n_steps

    @property
    def deferred(self) -> bool:
        """Whether neurons fire when the whole window has arrived."""
        return self.call.coding.deferred

    @cached_property
    def table(self) -> np.ndarray:
        """Rows that reach each output position, [positions, n_entries] int32; -1 is padding."""
        return self.connections.rows(self.batch)

    @property
    def taps(self) -> np.ndarray:
        """The tap of each entry, [n_entries] int32."""
        return self.connections.taps

    def window_units(self, dtype: torch.dtype) -> Tensor:
        """Sum of factor * spikes of all sources in the whole window, [rows, C_in].

        Args:
            dtype: of the result; it must hold all sums.
        """
        factors = self.plan.factors.tolist()
        bursts = [trains.bursts for signal in self.signals for trains in signal.trains]
        known = [counts for counts in bursts if counts is not None]
        if len(self.signals) > 1 or len(known) < len(bursts):
            return packed.collect(self.sources, factors, dtype)
        connectivity = self.call.connectivity
        rows = [connectivity.to_rows(counts[None])[0].to(dtype) for counts in known]
        first, *others = (
            units if factor == 1 else units * factor
            for units, factor in zip(rows, factors, strict=True)
        )
        return sum(others, start=first)

    def blocks(self) -> Iterator[tuple[list[Tensor], Tensor, slice]]:
        """Words of the sources, weight [n_taps, C_in, C_out] and output channels of each block."""
        split = zip(*(source.chunk(self.n_blocks, 2) for source in self.sources), strict=True)
        for sources, (weight, own) in zip(split, self.weights(), strict=True):
            yield [packed.contiguous(source) for source in sources], weight, own

    def weights(self) -> Iterator[tuple[Tensor, slice]]:
        """Weight [n_taps, C_in, C_out] and output channels of each block."""
        n_blocks, n_out = self.weight.shape[2:]
        for k in range(n_blocks):
            yield self.weight[:, :, k], slice(k * n_out, (k + 1) * n_out)

    def to_output(self, blocks: list[Tensor]) -> Tensor:
        """Words of all blocks, [n_words, positions, C_out] each, as [n_words, batch, ...]."""
        rows = blocks[0] if len(blocks) == 1 else torch.cat(blocks, 2)
        return self.call.connectivity.from_rows(rows, self.batch, self.connections.shape)


def _joined_rows(rows: list[list[Tensor]], weight: Tensor) -> list[Tensor]:
    """Sources of several synapses as sources of one, silent in the rows of the other synapses.

    Args:
        rows: the sources of each synapse, [n_words, rows, C_in] uint8.
        weight: joined, [n_taps, C_in per block, n_blocks, C_out per block].

    Returns:
        [n_words, all rows, n_blocks * C_in per block] each.
    """
    _, width, n_blocks, _ = weight.shape
    counts, sources = [own[0].shape[1] for own in rows], []
    for k, own in enumerate(rows):
        begin, end = sum(counts[:k]), sum(counts[: k + 1])
        for source in own:
            blocks = source.unflatten(2, (n_blocks, -1))
            whole = source.new_zeros(len(source), sum(counts), n_blocks, width)
            whole[:, begin:end, :, : blocks.shape[3]] = blocks
            sources.append(whole.flatten(2))
    return sources


def _joined_blocks(call: LayerCall, n_taps: list[int]) -> Tensor:
    """Weights of all synapses, one below the other: see `RowLayout.weight`."""
    if call.fixed is None:
        weights = [
            projection.weight.detach().float() / float(projection.connectivity.divisor)
            for projection in call.projections
        ]
    else:
        weights = call.fixed.weights
    given = [
        (projection.connectivity, weight, taps)
        for projection, weight, taps in zip(call.projections, weights, n_taps, strict=True)
    ]
    n_blocks = gcd(*(_n_blocks(connectivity, weight) for connectivity, weight, _ in given))
    blocks = [_blocks(*own, n_blocks) for own in given]
    width = max(own.shape[1] for own in blocks)
    return torch.cat([F.pad(own, (0, 0, 0, 0, 0, width - own.shape[1])) for own in blocks])


def _n_blocks(connectivity: Connectivity, weight: Tensor) -> int:
    """Number of blocks of a synapse: its groups, merged where they are small."""
    n_groups, n_out = connectivity.groups, len(weight) // connectivity.groups
    n_in = connectivity.in_channels // n_groups
    most = max(1, MERGED_CHANNELS // max(n_in, n_out))
    return n_groups // max(n for n in range(1, min(most, n_groups) + 1) if n_groups % n == 0)


def _blocks(connectivity: Connectivity, weight: Tensor, n_taps: int, n_blocks: int) -> Tensor:
    """Weights by tap and block, with neighboring groups merged into blocks."""
    n_groups = connectivity.groups
    matrices = connectivity.tap_matrices(weight, n_taps).unflatten(2, (n_groups, -1))
    n_taps, n_in, _, n_out = matrices.shape
    n_merged = n_groups // n_blocks
    if n_merged == 1:
        return matrices
    merged = matrices.new_zeros(n_taps, n_merged, n_in, n_blocks, n_merged, n_out)
    own = matrices.unflatten(2, (-1, n_merged))
    for k in range(n_merged):
        merged[:, k, :, :, k] = own[:, :, :, k]
    return merged.flatten(4, 5).flatten(1, 2)


def _numbers(call: LayerCall, signals: Sequence[Signal]) -> tuple[list[list[float]], Plan]:
    """The factor of each source of each synapse, and the numbers of the layer."""
    if call.fixed is not None:
        integers = [
            [trains.multiple << shift for trains in signal.trains]
            for signal, shift in zip(signals, call.fixed.shifts, strict=True)
        ]
        plan = call.fixed.plan([factor for own in integers for factor in own])
        return [[float(factor) for factor in own] for own in integers], plan
    factors = [[float(trains.threshold) for trains in signal.trains] for signal in signals]
    flat = np.array([factor for own in factors for factor in own], np.float32)
    bias = call.bias.detach().float() / call.coding.n_steps
    threshold = call.threshold.detach().float().expand(len(bias)).contiguous()
    initial = threshold * call.coding.initial_potential
    return factors, Plan(bias, threshold, initial, flat, np.float32(1))


def _product_dtype(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
