"""What a layer hands to an engine, and the same laid out as rows of channels.

Engines see these descriptions and never a layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from spikesep.spiking.integers import FixedPoint, Plan
from spikesep.spiking.signal import Coding, Signal
from spikesep.spiking.spike_trains import packed
from spikesep.spiking.synapses.connectivity import Connectivity
from spikesep.spiking.synapses.table import ConnectionTable

MERGED_CHANNELS = 64
"""Channels up to which groups are merged into one block with zeros between them: an engine spends
more time on a call per group than on products with zeros.
"""


@dataclass(frozen=True)
class LayerCall:
    """One spiking layer: its synapse and its neurons.

    Attributes:
        connectivity: which inputs reach which neurons.
        weight: of the neurons, activation units, [C_out, C_in / groups, ...].
        bias: [C_out].
        threshold: scalar, activation units.
        coding: N_s, encoding, initial potential, whether neurons are deferred.
        fixed: the integers of the layer, or None.
        learns: whether the layer is in training; autocast holds for it then.
    """

    connectivity: Connectivity
    weight: Tensor
    bias: Tensor
    threshold: Tensor
    coding: Coding
    fixed: FixedPoint | None
    learns: bool

    def current(self, signal: Signal) -> Tensor:
        """Synaptic current in activation units, [N_s, batch, ...], with b / N_s in every step.

        Behind spiking layers, the synapses of all steps are one product.
        """
        n_steps = self.coding.n_steps
        if signal.is_spiking:
            dtype = _product_dtype(self.weight)
            if len(signal.trains) > 1:
                return self.current_of_steps(signal.drive(dtype))
            source = next(iter(signal.trains))  # zeros and ones are exact in any number format
            ones = packed.drive([source.words], [1.0], n_steps, dtype)
            return self.current_of_steps(ones, self.weight * source.threshold)
        if self.coding.encoding == "constant":
            current = self._transmit(signal.value, self.weight / n_steps, self.bias / n_steps)
            return current.expand(n_steps, *current.shape)
        impulse = self._transmit(signal.value, self.weight, self.bias / n_steps)
        rest = self.connectivity.per_output(self.bias / n_steps).expand_as(impulse)
        return torch.stack([impulse, *[rest] * (n_steps - 1)])

    def current_of_steps(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Current that inputs x [N_s, batch, ...] cause in each step, [N_s, batch, ...]."""
        weight, n_steps = self.weight if weight is None else weight, self.coding.n_steps
        return self._transmit(x.flatten(0, 1), weight, self.bias / n_steps).unflatten(
            0, (n_steps, -1)
        )

    def charge(self, signal: Signal) -> Tensor:
        """Current summed over the window, activation units, [batch, ...]."""
        return self._transmit(signal.value, self.weight, self.bias)

    def _transmit(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.connectivity.transmit(x, weight, bias)


@dataclass(frozen=True)
class RowLayout:
    """A layer and the spikes that reach it, with a row of channels for each position.

    Attributes:
        call: the layer.
        batch: number of examples.
        connections: connection table of one example.
        sources: words of each source, [n_words, rows, C_in] uint8.
        weight: [n_taps, C_in per block, n_blocks, C_out per block]. Blocks are the groups of the
            synapse, merged where they are small.
        plan: the numbers of the layer, integers in fixed-point form.
    """

    call: LayerCall
    batch: int
    connections: ConnectionTable
    sources: list[Tensor]
    weight: Tensor
    plan: Plan

    @classmethod
    def of(cls, call: LayerCall, signal: Signal) -> "RowLayout":
        """The layout of a layer for the spikes of a signal.

        Raises:
            NotImplementedError: the synapse has no connection table.
        """
        words = [trains.words for trains in signal.trains]
        connections = call.connectivity.table(words[0].shape[2:])
        sources = [call.connectivity.to_rows(source) for source in words]
        if call.fixed is None:
            plan = _float_plan(call, signal)
            weight = _blocks(call.connectivity, plan.weight, connections.n_taps)
        else:
            plan = call.fixed.plan([trains.multiple for trains in signal.trains])
            key = ("blocks", connections.n_taps)
            weight = call.fixed.arranged(
                key, lambda: _blocks(call.connectivity, plan.weight, connections.n_taps)
            )
        return cls(call, words[0].shape[1], connections, sources, weight, plan)

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

    @property
    def inputs_per_tap(self) -> int:
        """Inputs that reach an output position through one weight: more than one behind pooling."""
        return len(self.taps) // self.weight.shape[0]

    def blocks(self) -> Iterator[tuple[list[Tensor], Tensor, slice]]:
        """Words of the sources, weight [n_taps, C_in, C_out] and output channels of each block."""
        n_blocks, n_out = self.weight.shape[2:]
        split = zip(*(source.chunk(n_blocks, 2) for source in self.sources), strict=True)
        for k, sources in enumerate(split):
            words = [packed.contiguous(source) for source in sources]
            yield words, self.weight[:, :, k], slice(k * n_out, (k + 1) * n_out)

    def to_output(self, blocks: list[Tensor]) -> Tensor:
        """Words of all blocks, [n_words, positions, C_out] each, as [n_words, batch, ...]."""
        rows = blocks[0] if len(blocks) == 1 else torch.cat(blocks, 2)
        return self.call.connectivity.from_rows(rows, self.batch, self.connections.shape)


def _blocks(connectivity: Connectivity, weight: Tensor, n_taps: int) -> Tensor:
    """Weights by tap and block, with neighboring small groups merged into one block."""
    n_groups = connectivity.groups
    matrices = connectivity.tap_matrices(weight, n_taps).unflatten(2, (n_groups, -1))
    n_taps, n_in, _, n_out = matrices.shape
    most = max(1, MERGED_CHANNELS // max(n_in, n_out))
    n_merged = max(n for n in range(1, min(most, n_groups) + 1) if n_groups % n == 0)
    if n_merged == 1:
        return matrices
    merged = matrices.new_zeros(n_taps, n_merged, n_in, n_groups // n_merged, n_merged, n_out)
    own = matrices.unflatten(2, (-1, n_merged))
    for k in range(n_merged):
        merged[:, k, :, :, k] = own[:, :, :, k]
    return merged.flatten(4, 5).flatten(1, 2)


def _float_plan(call: LayerCall, signal: Signal) -> Plan:
    factors = np.array([float(trains.threshold) for trains in signal.trains], np.float32)
    weight, bias = call.weight.detach().float(), call.bias.detach().float() / call.coding.n_steps
    threshold = call.threshold.detach().float().expand(len(bias)).contiguous()
    initial = threshold * call.coding.initial_potential
    weight = weight / float(call.connectivity.divisor)
    return Plan(weight, bias, threshold, initial, factors, np.float32(1))


def _product_dtype(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
