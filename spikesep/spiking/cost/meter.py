"""Count of the operations of a network while it runs: multiply-accumulates, synaptic operations.

A synaptic operation is one spike arriving at one neuron: an addition. A layer with an analog input,
the first one, multiplies, so its work stays in MACs. Synapses that read zero padding are not
counted in either network, and pruned synapses are not counted in the SNN.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spikesep.spiking.cost.record import Cost
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Coding, Signal, SpikeTrains
from spikesep.spiking.spike_trains import packed
from spikesep.spiking.synapses.connectivity import Connectivity
from spikesep.spiking.synaptic import Synaptic


class CostMeter:
    """Observer of a `SpikingNetwork` that adds up its cost.

    Pass it as `observe`, then read `cost`.
    """

    def __init__(self):
        self._layers: dict[str, Cost] = {}

    @property
    def cost(self) -> Cost:
        """The cost of all layers so far."""
        return Cost.of_layers(list(self._layers.values()))

    def __call__(
        self, name: str, module: Synaptic, signals: tuple[Signal, ...], out: Signal
    ) -> None:
        """See `spikesep.spiking.network.Observer`."""
        branches = zip(module.branches, signals, strict=True)
        arriving = sum((_arriving(*branch) for branch in branches), start=_Arriving())
        fires = out.is_spiking
        n_spikes = float(sum(trains.n_spikes for trains in out.trains))
        own = Cost(
            macs=arriving.macs,
            kept_macs=arriving.kept_macs,
            analog_macs=arriving.analog_macs,
            synops=arriving.spikes,
            n_steps=out.trains[0].n_steps if fires else 0,
            spikes=(n_spikes,) if fires else (),
            neurons=(float(out.shape.numel()),) if fires else (),
            readout_synops=arriving.spikes if isinstance(module, Readout) else 0.0,
            full_synops=arriving.spikes_unpruned,
            active_macs=arriving.active,
            deferred=fires and _coding_of(module).deferred,
            leaky=fires and _coding_of(module).beta < 1,
        )
        before = self._layers.get(name)
        self._layers[name] = own if before is None else before + own


@dataclass(frozen=True)
class _Arriving:
    """Operations of one or more synapses of a layer; those of several add up.

    Attributes:
        macs: multiply-accumulates, all synapses kept.
        kept_macs: multiply-accumulates of the synapses that pruning left.
        analog_macs: `kept_macs` for an analog input.
        spikes: synaptic operations.
        spikes_unpruned: synaptic operations if no synapse were pruned.
        active: synapses whose input is not zero.
    """

    macs: float = 0.0
    kept_macs: float = 0.0
    analog_macs: float = 0.0
    spikes: float = 0.0
    spikes_unpruned: float = 0.0
    active: float = 0.0

    def __add__(self, other: "_Arriving") -> "_Arriving":
        return _Arriving(
            self.macs + other.macs,
            self.kept_macs + other.kept_macs,
            self.analog_macs + other.analog_macs,
            self.spikes + other.spikes,
            self.spikes_unpruned + other.spikes_unpruned,
            self.active + other.active,
        )


def macs(module: Synaptic, shape: tuple[int, ...]) -> float:
    """Multiply-accumulates of a synapse for an input [batch, ...], nothing pruned.

    Shortcuts of weight one only add, and have none.
    """
    return module.connectivity.n_macs(shape)


def synops(module: Synaptic, count: Tensor) -> float:
    """Synaptic operations when input element i sends count[i] spikes, [batch, ...]."""
    return module.connectivity.n_arriving(count, module.kept)


def spikes_arriving(module: Synaptic, trains: SpikeTrains) -> float:
    """Synaptic operations that one layer's spikes cause in a synapse."""
    return _of_trains(module, trains).spikes


def measure(network: SpikingNetwork, x: Tensor) -> tuple[Tensor, Cost]:
    """Run a network on x, [batch, ...]; return its prediction and the cost."""
    meter = CostMeter()
    with torch.no_grad():
        prediction = network(x, observe=meter)
    return prediction, meter.cost


def _coding_of(module: Synaptic) -> Coding:
    assert isinstance(module, SpikingLayer)
    return module.coding


def _arriving(module: Synaptic, signal: Signal) -> _Arriving:
    n_macs = n_kept = macs(module, signal.shape)
    if module.kept is not None:
        n_kept = module.connectivity.n_macs(signal.shape, module.kept)
    if not signal.is_spiking:
        active = _active_inputs(module, signal.value) if n_macs else 0.0
        return _Arriving(n_macs, n_kept, n_kept, active=active)
    parts = (_of_trains(module, trains) for trains in signal.trains)
    return sum(parts, start=_Arriving(n_macs, n_kept))


def _of_trains(module: Synaptic, trains: SpikeTrains) -> _Arriving:
    """Count the operations that one layer's spikes cause, from their words where possible."""
    connectivity, kept = module.connectivity, module.kept
    if not connectivity.has_table:
        count = trains.count.float()
        spikes = connectivity.n_arriving(count, kept)
        unpruned = spikes if kept is None else connectivity.n_arriving(count)
        active = connectivity.n_arriving((count > 0).float(), kept)
        return _Arriving(spikes=spikes, spikes_unpruned=unpruned, active=active)
    batch, *shape = trains.shape
    kinds, reach = connectivity.table(tuple(shape)).kinds
    kinds = np.tile(kinds, batch)
    if trains.bursts is None:
        rows = connectivity.to_rows(trains.words)
        spikes, active = packed.count_channels(rows, kinds, len(reach))
    else:
        (rows,) = connectivity.to_rows(trains.bursts[None])
        spikes, active = packed.sum_channels(rows, kinds, len(reach))
    return _Arriving(
        spikes=_synapses(connectivity, spikes, reach, kept),
        spikes_unpruned=_synapses(connectivity, spikes, reach, None),
        active=_synapses(connectivity, active, reach, kept),
    )


def _active_inputs(module: Synaptic, value: Tensor) -> float:
    """Synapses of a layer whose analog input, behind pooling, is not zero."""
    connectivity = module.connectivity.without_map().zero_padded()
    pooled = module.connectivity.pool(value.detach())
    kinds, reach = connectivity.table(pooled.shape[1:]).kinds
    if connectivity.in_channels_last:
        pooled = pooled.movedim(-1, 1)
    places = pooled.flatten(2) if pooled.ndim > 2 else pooled[..., None]
    active = packed.count_nonzero(places, kinds, len(reach))
    return _synapses(connectivity, active, reach, module.kept)


def _synapses(
    connectivity: Connectivity, counts: Tensor, reach: np.ndarray, kept: Tensor | None
) -> float:
    """Synapses that inputs reach.

    Args:
        connectivity: of the layer.
        counts: inputs by kind of position and channel, [n_kinds, C].
        reach: entries that read a position of each kind through each tap, [n_kinds, n_taps].
        kept: synapses that pruning left; None for all.
    """
    if kept is None:
        n_outputs = connectivity.out_channels // connectivity.groups
        return float(counts.numpy().sum(1) @ reach.sum(1)) * n_outputs
    by_tap = connectivity.reached_by_tap(kept, reach.shape[1]).cpu().numpy()
    return float(((counts.numpy() @ by_tap) * reach).sum())
