"""Report of what conversion did to each layer, to trace a loss of quality to its layer."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from spikesep.spiking.conversion.threshold import ThresholdChoice
from spikesep.spiking.cost.meter import macs, spikes_arriving
from spikesep.spiking.layer import SpikingLayer
from spikesep.spiking.network import SpikingNetwork
from spikesep.spiking.signal import Signal


@dataclass
class LayerReport:
    """One converted layer over some data, compared with its analog twin on the same inputs.

    Attributes:
        layer: name.
        threshold: firing threshold, activation units.
        percentile: percentile of the activations at calibration that set the upper bound.
        clipped_share: share of the twin's activations above N_s * threshold, after training.
        firing_rate: mean spikes per neuron and step.
        quantization_error: root mean square error of clipping, rounding and leak under a constant
            current, relative to the twin's activation.
        count_error: mean distance between spike count and the twin's coded activation, in spikes:
            the error that the order of incoming spikes adds to quantization.
        histogram: of the activations at calibration.
        error: root mean square error of what the spikes say, relative to the twin's activation.
        synops_ratio: synaptic operations that the layer's spikes cause in later layers and the
            readout, per multiply-accumulate of the analog network. Those of all layers add up to
            `Cost.synops_ratio`.
    """

    layer: str
    threshold: float
    percentile: float
    clipped_share: float
    firing_rate: float
    quantization_error: float
    count_error: float
    histogram: dict = field(default_factory=dict)
    error: float = math.nan
    synops_ratio: float = math.nan

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self)


class _Sums:
    """Running sums over one layer."""

    def __init__(self):
        self.neurons = self.clipped = self.spikes = self.error = self.energy = self.distance = 0.0
        self.spike_error = self.synops = 0.0

    def update(self, layer: SpikingLayer, signals: tuple[Signal, ...], out: Signal) -> None:
        twin = layer.activation(*(signal.value for signal in signals)).double()
        threshold, n_steps = float(layer.threshold), layer.coding.n_steps
        expected = layer.coding.count(twin / threshold)
        count = out.count
        self.neurons += twin.numel()
        self.clipped += float((twin > threshold * n_steps).sum())
        self.spikes += float(count.sum())
        self.error += float((expected * threshold - twin).square().sum())
        self.spike_error += float((count * threshold - twin).square().sum())
        self.energy += float(twin.square().sum())
        self.distance += float((count - expected).abs().sum())


def conversion_report(
    network: SpikingNetwork, inputs: Iterable[Tensor], choices: list[ThresholdChoice]
) -> list[LayerReport]:
    """Report on every spiking layer of a converted network.

    Args:
        network: fully or partly converted.
        inputs: batches of its analog input.
        choices: how thresholds were set, one per converted layer.
    """
    sums, n_macs = {name: _Sums() for name in network.names[: network.n_converted]}, 0.0

    def observe(name: str, module, signals: tuple[Signal, ...], out: Signal) -> None:
        nonlocal n_macs
        if name in sums:
            sums[name].update(module, signals, out)
        for branch, wire, signal in zip(
            module.branches, network.wiring[name], signals, strict=True
        ):
            n_macs += macs(branch, signal.shape)
            for source, trains in zip(wire.names, signal.trains, strict=False):
                sums[source].synops += spikes_arriving(branch, trains)

    with torch.no_grad():
        for x in inputs:
            network(x, observe=observe)
    reports = []
    for (name, s), choice in zip(sums.items(), choices, strict=True):
        layer = network.layers[name]
        reports.append(
            LayerReport(
                layer=name,
                threshold=float(layer.threshold),
                percentile=choice.percentile,
                clipped_share=s.clipped / s.neurons,
                firing_rate=s.spikes / (s.neurons * layer.coding.n_steps),
                quantization_error=(s.error / s.energy) ** 0.5 if s.energy else 0.0,
                error=(s.spike_error / s.energy) ** 0.5 if s.energy else 0.0,
                synops_ratio=s.synops / n_macs,
                count_error=s.distance / s.neurons,
                histogram=choice.histogram,
            )
        )
    return reports
