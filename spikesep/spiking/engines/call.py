"""What the engines have in common: a layer and the spikes that reach it, laid out as rows of channels."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from spikesep.spiking.connections import (
    Connections,
    connect,
    divisor,
    from_rows,
    tap_matrices,
    to_rows,
)
from spikesep.spiking.integers import Plan
from spikesep.spiking.signal import Signal
from spikesep.spiking.spike_trains import packed


@dataclass(frozen=True)
class Job:
    """One layer to run.

    Attributes:
        layer: whose neurons fire.
        batch: examples.
        connections: of one example.
        sources: words of each source, [n_words, rows, C_in] uint8; a row is a position of an example.
        weight: [n_taps, C_in a group, n_groups, C_out a group].
        plan: the layer's numbers.
        n_steps: N_s.
        deferred: neurons fire when all of the window has arrived.
    """

    layer: nn.Module
    batch: int
    connections: Connections
    sources: list[Tensor]
    weight: Tensor
    plan: Plan
    n_steps: int
    deferred: bool

    @classmethod
    def of(cls, layer: nn.Module, signal: Signal) -> "Job":
        """In integers where the layer has a fixed-point form.

        Raises:
            NotImplementedError: a geometry without a table of connections.
        """
        words = [trains.words for trains in signal.trains]
        net = connect(layer, words[0].shape[2:])
        sources, batch = [to_rows(source, layer) for source in words], words[0].shape[1]
        multiples = [trains.multiple for trains in signal.trains]
        plan = layer.fixed.plan(multiples) if layer.fixed is not None else _floats(layer, signal)
        n_groups = getattr(layer.synapse, "groups", 1)
        weight = tap_matrices(layer.synapse, plan.weight, int(net.taps.max()) + 1).unflatten(
            2, (n_groups, -1)
        )
        coding = layer.coding
        return cls(layer, batch, net, sources, weight, plan, coding.n_steps, coding.deferred)

    @cached_property
    def table(self) -> np.ndarray:
        """Rows that reach each output position, [positions, n_entries] int32; -1 is padding."""
        return self.connections.rows(self.batch)

    @property
    def taps(self) -> np.ndarray:
        """Weight matrices of the entries, [n_entries] int32."""
        return self.connections.taps

    @property
    def sharing(self) -> int:
        """Inputs that reach an output position through the same weight: more than one behind pooling."""
        return len(self.taps) // self.weight.shape[0]

    def groups(self):
        """For each group of channels: the words of its sources, its weight [n_taps, C_in, C_out], its neurons."""
        n_groups, n_out = self.weight.shape[2:]
        for g, sources in enumerate(
            zip(*(source.chunk(n_groups, 2) for source in self.sources), strict=True)
        ):
            yield (
                [packed.contiguous(s) for s in sources],
                self.weight[:, :, g],
                slice(g * n_out, (g + 1) * n_out),
            )

    def words(self, groups: list[Tensor]) -> Tensor:
        """The output, [n_words, positions, C_out] a group, as [n_words, batch, ...]; a view: the next wants rows."""
        rows = groups[0] if len(groups) == 1 else torch.cat(groups, 2)
        return from_rows(rows, self.layer, self.batch, self.connections.shape)


def _floats(layer: nn.Module, signal: Signal) -> Plan:
    factors = np.array([float(trains.threshold) for trains in signal.trains], np.float32)
    weight, bias = (tensor.detach().float() for tensor in layer.shared())
    bias = bias / layer.coding.n_steps
    threshold = layer.threshold.detach().float().expand(len(bias)).contiguous()
    return Plan(
        weight / divisor(layer),
        bias,
        threshold,
        threshold * layer.coding.initial_potential,
        factors,
        np.float32(1),
    )
