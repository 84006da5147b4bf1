"""What a network costs: multiply-accumulates of the analog network against synaptic operations of the spiking one.

A synaptic operation is one spike arriving at one neuron: an addition. A layer with an analog input (the first one)
multiplies, so its work stays in MACs. Connections that end in zero padding are not there, and not counted, in both;
those that conversion gave up are not there in the spiking network.
"""

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikesep.spiking.connections import channels_are_last, connect, divisor, has_table
from spikesep.spiking.layer import Readout, SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.signal import Signal, SpikeTrains
from spikesep.spiking.spike_trains import packed


@dataclass(frozen=True)
class Cost:
    """Operations of one or more forward passes; costs of several passes add up.

    Attributes:
        macs: multiply-accumulates that the analog network does.
        kept_macs: what it would do with the connections alone that conversion left it; mostly all.
        analog_macs: those that remain in the spiking network: all where it is analog, else of the first layer.
        synops: synaptic operations of the spiking network.
        n_steps: N_s; 0 for an analog network.
        spikes: fired by each spiking layer.
        neurons: of each spiking layer, summed over the passes.
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
        """Synaptic operations over the analog network's MACs (the paper's Fig. 6B)."""
        return self.synops / self.macs if self.macs else 0.0

    @property
    def firing_rate(self) -> list[float]:
        """Mean spikes of a neuron in a time step, for each spiking layer."""
        return [s / (n * self.n_steps) for s, n in zip(self.spikes, self.neurons, strict=True)]

    def to_dict(self) -> dict:
        """For JSON."""
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
    """An observer of a `SpikingNetwork` that adds up its cost: pass it as `observe`, then read `cost`."""

    def __init__(self):
        self.cost = Cost()
        self._passing = Cost()

    def __call__(self, name: str, module: nn.Module, signal: Signal, out: Signal) -> None:
        """See `spikesep.spiking.network.Observer`."""
        kept = _kept(module)
        n_macs = n_kept = macs(module, signal.shape)
        if kept is not None:
            n_kept = macs(module, signal.shape, kept)
        synops = sum(_arriving(module, trains) for trains in signal.trains)
        fires = out.is_spiking
        p = self._passing
        self._passing = Cost(
            p.macs + n_macs,
            p.kept_macs + n_kept,
            p.analog_macs + (0.0 if signal.is_spiking else n_kept),
            p.synops + synops,
            out.trains[0].n_steps if fires else p.n_steps,
            (*p.spikes, float(sum(trains.n_spikes for trains in out.trains)))
            if fires
            else p.spikes,
            (*p.neurons, float(out.shape.numel())) if fires else p.neurons,
        )
        if isinstance(module, Readout):  # the readout ends the pass
            self.cost, self._passing = self.cost + self._passing, Cost()


class SynopsEstimate:
    """An observer of a network in training, whose layers round or spike: what its spikes cost, with a gradient.

    Synapses are counted as if there were no borders. Make one for each pass.
    """

    def __init__(self):
        self.synops = self.macs = 0.0
        self._arriving: Tensor | float = 0.0  # of each channel, [C]; none behind an analog layer

    @property
    def ratio(self) -> Tensor | float:
        """Synaptic operations over the MACs of the layers that were passed, a scalar."""
        return self.synops / self.macs if self.macs else 0.0

    def __call__(self, name: str, module: nn.Module, signal: Signal, out: Signal) -> None:
        """See `spikesep.spiking.network.Observer`."""
        if not self.macs and signal.is_spiking:  # of a frozen prefix
            self._arriving = of_channels(signal.count, channels_are_last(module))
        if isinstance(self._arriving, Tensor):
            self.synops = (
                self.synops + (self._arriving * reached(module, len(self._arriving))).sum()
            )
        self.macs += signal.value.numel() / int(divisor(module)) * fan_out(module)
        if isinstance(module, Readout) or module.mode == "analog":
            self._arriving = 0.0
            return
        spikes = (
            of_channels(out.value.float(), isinstance(module.synapse, nn.Linear)) / module.threshold
        )
        self._arriving = spikes + self._arriving if module.identity else spikes


def of_channels(values: Tensor, are_last: bool) -> Tensor:
    """Sums of [batch, C, ...], or of [batch, ..., C], over all but the channels: [C]."""
    channels = values.ndim - 1 if are_last else 1
    return values.sum([dim for dim in range(values.ndim) if dim != channels])


def reached(module: SpikingLayer | Readout, n_channels: int) -> Tensor:
    """Of the connections that there are, how many a spike of each channel takes on average, far from borders, [C]."""
    synapse, kept = module.synapse, _kept(module)
    if kept is None:
        return torch.full((n_channels,), fan_out(module), device=synapse.weight.device)
    if isinstance(
        synapse, nn.Linear
    ):  # behind flattened maps, each of a channel's places has weights of its own
        return kept.sum(0).view(n_channels, -1).float().mean(1)
    return _of_each_input(synapse, kept).view(n_channels, -1).sum(1) / prod(synapse.stride)


def _of_each_input(synapse: nn.Module, kept: Tensor) -> Tensor:
    """How many outputs each input is connected to by each tap, [groups, C_in / groups, taps...]."""
    return kept.unflatten(0, (getattr(synapse, "groups", 1), -1)).sum(1)


def fan_out(module: SpikingLayer | Readout) -> float:
    """Synapses that a spike from one place reaches on average, far from borders; pooling comes first."""
    synapse = module.synapse
    if isinstance(synapse, nn.Linear):
        return float(synapse.out_features)
    return synapse.out_channels // synapse.groups * prod(synapse.kernel_size) / prod(synapse.stride)


def connections(module: SpikingLayer | Readout, count: Tensor) -> float:
    """Synaptic operations when input element i sends count[i] spikes.

    Args:
        module: a layer or a readout; spikes that go through its pooling all reach the synapse.
        count: [batch, ...], the shape of the module's input.
    """
    if module.before is not None:
        count = module.before(count) * divisor(module)  # all of them reach the synapse
    return _arrivals(module.synapse, count, _kept(module))


def macs(
    module: SpikingLayer | Readout, shape: tuple[int, ...], kept: Tensor | None = None
) -> float:
    """Multiply-accumulates of the synapse, for an input of a shape; pooling comes first.

    Args:
        module: a layer or a readout.
        shape: [batch, ...].
        kept: the connections that there are, bool, the shape of the weight; None for all.
    """
    if module.before is not None:
        shape = module.before(torch.empty(shape, device="meta")).shape
    synapse, bare = module.synapse, Readout(module.synapse)
    if has_table(bare) and not isinstance(synapse, nn.Linear):
        table = connect(bare, shape[1:])
        if kept is None:
            return float(shape[0] * shape[1] * table.reach.sum()) * (
                synapse.out_channels // synapse.groups
            )
        return float(
            shape[0] * table.reach_of_taps.sum(0) @ kept.flatten(2).sum((0, 1)).cpu().numpy()
        )
    return _arrivals(synapse, torch.ones(shape, device=synapse.weight.device), kept)


def _arriving(module: SpikingLayer | Readout, trains: SpikeTrains) -> float:
    """Synaptic operations of one layer's spikes."""
    synapse, kept = module.synapse, _kept(module)
    of_vectors = channels_are_last(module)
    if not has_table(module) or (of_vectors and kept is not None):
        return connections(module, trains.count.float())
    if of_vectors:
        return float(trains.n_spikes * synapse.out_features)
    if kept is not None:
        n_reached = _of_each_input(synapse, kept).reshape(trains.words.shape[2], -1)
        weighed = packed.weigh_places(trains.words, n_reached.cpu().numpy())
        reach = connect(module, trains.words.shape[2:]).reach_of_taps
        return float((weighed.reshape(-1, *reach.shape) * reach).sum())
    n_reached = len(synapse.weight) // getattr(synapse, "groups", 1)
    places = trains.place_count.flatten(1).sum(0).cpu().numpy()
    return float(places @ connect(module, trains.words.shape[2:]).reach) * n_reached


def _kept(module: SpikingLayer | Readout) -> Tensor | None:
    """Which connections conversion left, bool, the shape of the weight; None where that is all."""
    return getattr(module.limiter, "kept", None)


def _arrivals(synapse: nn.Module, count: Tensor, kept: Tensor | None = None) -> float:
    kept = torch.ones_like(synapse.weight, dtype=torch.bool) if kept is None else kept
    if isinstance(synapse, nn.Linear):
        return float((count.double() * kept.sum(0)).sum())
    # All output neurons of a group at one place receive what stands within their receptive fields: a convolution.
    convolve = F.conv1d if isinstance(synapse, nn.Conv1d) else F.conv2d
    reached, way = (
        _of_each_input(synapse, kept).to(count.dtype),
        (synapse.stride, synapse.padding, synapse.dilation),
    )
    return float(convolve(count, reached, None, *way, synapse.groups).double().sum())


def measure(network: SpikingNetwork, x: Tensor) -> tuple[Tensor, Cost]:
    """Run the network on x, [batch, ...]; its readout potential and what it cost."""
    meter = CostMeter()
    with torch.no_grad():
        potential = network(x, observe=meter)
    return potential, meter.cost
