"""Cost of a network: multiply-accumulates of the ANN against synaptic operations of the SNN.

A synaptic operation is one spike arriving at one neuron: an addition. A layer with an analog input,
    the first one, multiplies, so its work stays in MACs. Synapses that read zero padding are not
    counted in either network, and pruned synapses are not counted in the SNN.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.readout import Readout
from spikesep.spiking.signal import Signal, SpikeTrains
from spikesep.spiking.spike_trains import packed
from spikesep.spiking.synaptic import Synaptic


@dataclass(frozen=True)
class Cost:
    """Operations of one or more forward passes; costs of several passes add up.

    Attributes:
        macs: multiply-accumulates of the analog network.
        kept_macs: multiply-accumulates of the analog network without pruned synapses.
        analog_macs: MACs that remain in the spiking network: those of the first layer, or all while
            the network is analog.
        synops: synaptic operations of the spiking network.
        n_steps: N_s; 0 for an analog network.
        spikes: spikes fired by each spiking layer.
        neurons: neurons of each spiking layer, summed over the passes.
    """

    macs: float = 0.0
    kept_macs: float = 0.0
    analog_macs: float = 0.0
    synops: float = 0.0
    n_steps: int = 0
    spikes: tuple[float, ...] = field(default=())
    neurons: tuple[float, ...] = field(default=())

    def __add__(self, other: "Cost") -> "Cost":
        if not self.macs or not other.macs:
            return self if self.macs else other
        if self.n_steps != other.n_steps or len(self.spikes) != len(other.spikes):
            raise ValueError("costs of different networks do not add up")
        return Cost(
            self.macs + other.macs,
            self.kept_macs + other.kept_macs,
            self.analog_macs + other.analog_macs,
            self.synops + other.synops,
            self.n_steps,
            tuple(a + b for a, b in zip(self.spikes, other.spikes, strict=True)),
            tuple(a + b for a, b in zip(self.neurons, other.neurons, strict=True)),
        )

    @property
    def synops_ratio(self) -> float:
        """Synaptic operations per MAC of the analog network (Fig. 6B of the paper)."""
        return self.synops / self.macs if self.macs else 0.0

    @property
    def firing_rate(self) -> list[float]:
        """Mean spikes per neuron and time step, for each spiking layer."""
        return [s / (n * self.n_steps) for s, n in zip(self.spikes, self.neurons, strict=True)]

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {
            "macs": self.macs,
            "kept_macs": self.kept_macs,
            "analog_macs": self.analog_macs,
            "synops": self.synops,
            "n_steps": self.n_steps,
            "synops_ratio": self.synops_ratio,
            "firing_rate": self.firing_rate,
        }


class CostMeter:
    """Observer of a `SpikingNetwork` that adds up its cost.

    Pass it as `observe`, then read `cost`.
    """

    def __init__(self):
        self.cost = Cost()
        self._passing = Cost()

    def __call__(
        self, name: str, module: Synaptic, signals: tuple[Signal, ...], out: Signal
    ) -> None:
        """See `spikesep.spiking.network.Observer`."""
        n_macs = n_kept = n_analog = n_synops = 0.0
        for branch, signal in zip(module.branches, signals, strict=True):
            of_branch = own = macs(branch, signal.shape)
            if branch.kept is not None:
                own = branch.connectivity.n_macs(signal.shape, branch.kept)
            n_macs, n_kept = n_macs + of_branch, n_kept + own
            n_analog += 0.0 if signal.is_spiking else own
            n_synops += sum(_synops(branch, trains) for trains in signal.trains)
        n_spikes = float(sum(trains.n_spikes for trains in out.trains))
        fires, p = out.is_spiking, self._passing
        self._passing = Cost(
            macs=p.macs + n_macs,
            kept_macs=p.kept_macs + n_kept,
            analog_macs=p.analog_macs + n_analog,
            synops=p.synops + n_synops,
            n_steps=out.trains[0].n_steps if fires else p.n_steps,
            spikes=(*p.spikes, n_spikes) if fires else p.spikes,
            neurons=(*p.neurons, float(out.shape.numel())) if fires else p.neurons,
        )
        if isinstance(module, Readout):  # ends the pass
            self.cost, self._passing = self.cost + self._passing, Cost()


class SynopsEstimate:
    """Observer of one training pass: what its spikes cost, with a gradient.

    The network is a stack whose layers round or spike. Synapses are counted as if there were no
    borders.
    """

    def __init__(self):
        self.synops: Tensor | float = 0.0
        self.macs = 0.0
        self._arriving: Tensor | float = 0.0  # spikes per channel, [C]; 0 behind an analog layer

    @property
    def ratio(self) -> Tensor | float:
        """Synaptic operations per MAC of the layers passed, a scalar."""
        return self.synops / self.macs if self.macs else 0.0

    def __call__(
        self, name: str, module: Synaptic, signals: tuple[Signal, ...], out: Signal
    ) -> None:
        """See `spikesep.spiking.network.Observer`."""
        (signal,) = signals
        connectivity = module.connectivity
        if not self.macs and signal.is_spiking:  # behind a frozen prefix
            self._arriving = connectivity.sum_inputs(signal.count)
        if isinstance(self._arriving, Tensor):
            reached = connectivity.reached(len(self._arriving), module.kept)
            self.synops = self.synops + (self._arriving * reached.to(out.value.device)).sum()
        self.macs += signal.value.numel() / connectivity.divisor * connectivity.fan_out
        if not isinstance(module, SpikingLayer) or module.mode == "analog":
            self._arriving = 0.0
            return
        spikes = connectivity.sum_outputs(out.value.float()) / module.threshold
        self._arriving = spikes + self._arriving if module.identity else spikes


def macs(module: Synaptic, shape: tuple[int, ...]) -> float:
    """Multiply-accumulates of a layer or readout for an input [batch, ...], all synapses kept."""
    return module.connectivity.n_macs(shape)


def synops(module: Synaptic, count: Tensor) -> float:
    """Synaptic operations when input element i sends count[i] spikes, [batch, ...]."""
    return module.connectivity.n_arriving(count, module.kept)


def measure(network: SpikingNetwork, x: Tensor) -> tuple[Tensor, Cost]:
    """Run a network on x, [batch, ...]; return the readout's potential and the cost."""
    meter = CostMeter()
    with torch.no_grad():
        potential = network(x, observe=meter)
    return potential, meter.cost


def _synops(module: Synaptic, trains: SpikeTrains) -> float:
    """Synaptic operations of one layer's spikes, from their words where there is a table."""
    connectivity, kept = module.connectivity, module.kept
    of_vectors = connectivity.in_channels_last
    if not connectivity.has_table or (of_vectors and kept is not None):
        return synops(module, trains.count.float())
    if of_vectors:
        return float(trains.n_spikes * connectivity.out_channels)
    table = connectivity.table(trains.words.shape[2:])
    if kept is None:
        n_spikes = trains.position_count.flatten(1).sum(0).cpu().numpy()
        return float(n_spikes @ table.reach) * (connectivity.out_channels // connectivity.groups)
    reached = connectivity.reached_by_tap(kept, table.n_taps).cpu().numpy()
    weighted = packed.weighted_counts(trains.words, reached)
    return float((weighted.reshape(-1, *table.reach_of_taps.shape) * table.reach_of_taps).sum())
